/* Keys of single connections, and the end of those that were kept from before enrolment or went past the proxy. */
#ifndef ZTUN_FLOWS_H
#define ZTUN_FLOWS_H

/* The key of a packet at a hook, and of its answers. */
static __always_inline void flow_of(struct flow_key *key, const struct packet *p, u8 hook) {
    __builtin_memset(key, 0, sizeof(*key));
    key->saddr_be = p->saddr_be;
    key->daddr_be = p->daddr_be;
    key->sport_be = p->sport_be;
    key->dport_be = p->dport_be;
    key->protocol = p->protocol;
    key->hook = hook;
}

static __always_inline void answer_of(struct flow_key *key, const struct packet *p, u8 hook) {
    __builtin_memset(key, 0, sizeof(*key));
    key->saddr_be = p->daddr_be;
    key->daddr_be = p->saddr_be;
    key->sport_be = p->dport_be;
    key->dport_be = p->sport_be;
    key->protocol = p->protocol;
    key->hook = hook;
}

/* Whether the connection was kept from before enrolment, and its time is not over. */
static __always_inline int is_kept(struct flow_key *flow) {
    u64 *until_ns = passthru.lookup(flow);
    return until_ns && (!*until_ns || bpf_ktime_get_ns() < *until_ns);
}

/* A connection that begins while its pod is learnt: it passes as it is, also once the pod is captured. */
static __always_inline void note_begun(const struct packet *p, u8 hook, u8 answers_hook) {
    struct flow_key flow, answer;
    u64 until_ns = bpf_ktime_get_ns() + LEARNT_NS;
    flow_of(&flow, p, hook);
    answer_of(&answer, p, answers_hook);
    passthru.update(&flow, &until_ns);
    passthru.update(&answer, &until_ns);
}

/* A bare SYN begins the tuple anew: what was kept for it is over, in both directions. One of the two entries may
 * be gone already (LRU); the other alone would lead packets of the new connection past the proxy. */
static __always_inline void end_kept(struct flow_key *flow, struct flow_key *answer, u32 reason) {
    if (!passthru.lookup(flow) && !passthru.lookup(answer))
        return;
    passthru.delete(flow);
    passthru.delete(answer);
    count(reason);
}

/* The same of one that went past the proxy: the connection that begins now does not. */
static __always_inline void forget_past_proxy(struct flow_key *flow) {
    struct host_flow *noted = hostflows.lookup(flow);
    if (noted && !noted->ifindex)
        hostflows.delete(flow);
}

#endif
