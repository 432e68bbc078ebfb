/* clsact ingress of a pod's host veth, behind the tcx link of from_pod: drops what that one has not passed on.
 * `tc filter add dev VETH ingress prio 1 handle 0x7a76 bpf da object-pinned .../prog_guard_from_pod` */
#include "ztun.h"

int guard_from_pod(struct __sk_buff *skb) {
    if (was_passed_on(skb, HOOK_FROM_POD))
        PASS_UNREAD(EXIT_guard_from_pod_SEEN);
    if (!is_guarded(skb))
        PASS_UNREAD(EXIT_guard_from_pod_UNGUARDED);
    return leave(skb, by(EXIT_guard_from_pod_UNSEEN, TC_ACT_SHOT));
}
