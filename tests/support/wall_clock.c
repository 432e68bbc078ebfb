/* A clock of its own for the process beneath which this is loaded (LD_PRELOAD), and its children: that of the machine and as
 * many seconds more as the file TEST_CLOCK says (8 bytes, of this machine's order), read anew each time. Times since
 * boot, what the kernel does until a time, and dates of files stay as they are.
 *   cc -shared -fPIC -o wall_clock.so wall_clock.c */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static const volatile int64_t *ahead_s;
static int (*machines)(clockid_t, struct timespec *);

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("TEST_CLOCK");
    int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (fd < 0)
        abort(); /* a test whose clock does not move would prove nothing */
    void *found = mmap(0, sizeof(int64_t), PROT_READ, MAP_SHARED, fd, 0);
    if (found == MAP_FAILED)
        abort();
    close(fd);
    machines = dlsym(RTLD_NEXT, "clock_gettime");
    ahead_s = found;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    int failed = machines ? machines(clock, now) : (int)syscall(SYS_clock_gettime, clock, now);
    if (!failed && ahead_s && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE || clock == CLOCK_TAI))
        now->tv_sec += *ahead_s;
    return failed;
}

time_t time(time_t *to) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (to)
        *to = now.tv_sec;
    return now.tv_sec;
}

int gettimeofday(struct timeval *restrict to, void *restrict zone) {
    struct timespec now;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &now);
    to->tv_sec = now.tv_sec;
    to->tv_usec = now.tv_nsec / 1000;
    return 0;
}
