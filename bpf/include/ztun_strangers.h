/* How fast one address may open connections to a pod's tunnel port before it has proven who it is.
 *
 * Each costs a worker a system call or two and then a handshake, so a crowd of them takes time from everybody. Those over
 * the limit are dropped, never refused: TCP sends a SYN again after a second. Who has proven itself to a worker is in
 * `members`, and is not limited. What is in the way of counting (no room, no map) lets the SYN pass: the workers have limits
 * of their own. */
#ifndef ZTUN_STRANGERS_H
#define ZTUN_STRANGERS_H

/* An entry is written while this reads it: half of one is at worst nobody's address. */
static __always_inline int is_member(const struct addr16 *source, u64 now_ns) {
    const u32 *words = (const u32 *)source;
    u32 hash = 0;
#pragma unroll
    for (int i = 0; i < 4; i++)
        hash = mixed(hash, words[i]);
    u32 first = hash % MEMBERS & ~1u, second = first + 1;
    struct member *one = members.lookup(&first), *other = members.lookup(&second);
    return (one && one->until_ns > now_ns && same_address(&one->address, source)) ||
           (other && other->until_ns > now_ns && same_address(&other->address, source));
}

#define OF_A_NETWORK 32 /* addresses' worth, for all of a /64 together: whoever has one has more addresses than can be told */

/* Of a bare SYN to the tunnel port of the pod behind `ifindex`. */
static __always_inline int is_too_fast(const struct packet *p, u32 ifindex, const struct conf_entry *c) {
    u64 every_ns = c->stranger_every_ns, now_ns = bpf_ktime_get_ns(), none_ns = 0;
    if (!every_ns || is_member(&p->saddr_be, now_ns))
        return 0;
    u64 limit_ns = every_ns * c->stranger_burst, network_ns = 0;
    struct stranger who = {.address = p->saddr_be, .ifindex = ifindex};
    u64 *of_network = 0;
    if (p->is_v6) {
        struct stranger network = who;
        __builtin_memset(network.address.bytes + 8, 0, 8);
        /* first: else its addresses would take the room of others' */
        of_network = strangers.lookup_or_try_init(&network, &none_ns);
        if (of_network) {
            network_ns = later(*of_network, now_ns, every_ns / OF_A_NETWORK);
            if (network_ns - now_ns > limit_ns)
                return 1;
        }
    }
    u64 *due = strangers.lookup_or_try_init(&who, &none_ns);
    if (!due)
        return 0;
    u64 due_ns = later(*due, now_ns, every_ns);
    if (due_ns - now_ns > limit_ns)
        return 1;
    /* CPUs may overtake each other here: a few more pass. What is dropped is not counted, or it would never pass. */
    *due = due_ns;
    if (of_network)
        *of_network = network_ns;
    return 0;
}

#endif
