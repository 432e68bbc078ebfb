/* Holds SYNs until the proxy has reached their destination, so that connect() tells the truth: the SYN is copied for a
 * worker and ends here; the worker lets the copy in, or answers it with a reset. Whatever is in the way of that means
 * that the SYN goes to the listener at once, as those of other pods do. It is never dropped for it.
 *
 * Which owner gets a connection that may be held is chosen by its addresses and ports, here and by the lookup: so the
 * worker that has asked for it accepts it. */
#ifndef ZTUN_HOLD_H
#define ZTUN_HOLD_H

#define BPF_TCP_TIME_WAIT 6
#define AF_INET 2
#define NO_REUSEPORT 2 /* BPF_SK_LOOKUP_F_NO_REUSEPORT: this very listener, not one of its group */
#define SYN_EVERY_NS 500000ull /* 2000 a second for each interface and direction, */
#define SYN_BURST 512          /* and so many at once */
#define DNS_EVERY_NS 166667ull /* 6000 a second of a pod, */
#define DNS_BURST 1000         /* and so many at once */
#define LEAST_HEADER_BYTES (ETH_BYTES + 20 + TCP_FIXED_BYTES)

/* bcc gives these to maps of its own kinds of rings only. */
static void *(*ringbuf_reserve)(void *ring, u64 bytes, u64 flags) = (void *)131;
static void (*ringbuf_submit)(void *record, u64 flags) = (void *)132;
static void (*ringbuf_discard)(void *record, u64 flags) = (void *)133;

enum hold { HELD = 0, NOT_HELD, OF_CONNECTION, OVER_BUDGET, WITHOUT_RING };

static __always_inline u32 mixed(u32 hash, u32 word) {
    hash = (hash ^ word) * 0x9e3779b1;
    return hash ^ (hash >> 15);
}

/* Ports as the packet has them, in network order. The key goes in at the end too, or ports that differ in a few bits would
 * lead to one owner whatever it is: whoever chooses his ports would have one worker do all his work. */
static __always_inline u32 chosen(u32 hash, u16 remote_be, u16 local_be, u32 key, u32 owners) {
    u32 last = (mixed(hash, (u32)remote_be << 16 | local_be) ^ key) * 0x85ebca6b;
    return (u64)last * owners >> 32;
}

/* Of a SYN: its source is the remote end. */
static __always_inline u32 owner_of(const struct packet *p, u32 key, u32 owners) {
    u32 hash = key;
    const u32 *remote = (const u32 *)&p->saddr_be, *local = (const u32 *)&p->daddr_be;
    if (p->is_v6) {
#pragma unroll
        for (int i = 0; i < 4; i++)
            hash = mixed(mixed(hash, remote[i]), local[i]);
    } else {
        hash = mixed(mixed(hash, remote[3]), local[3]);
    }
    return chosen(hash, p->sport_be, p->dport_be, key, owners);
}

/* The next owner, for connections of one pair of addresses at one slot: by turns, so that those of one busy pair of pods
 * have as many workers as there are, at both ends. Pairs begin with different owners. */
static __always_inline u32 next_of(u32 hash, u32 slot, u32 owners) {
    u32 pair = mixed(hash, slot), index = pair % TURNS;
    u32 *turn = turns.lookup(&index);
    if (!turn)
        return 0;
    /* CPUs may overtake each other here: two connections then have one owner */
    u32 number = *turn;
    *turn = number + 1;
    return (pair / TURNS + number) % owners;
}

/* Of a lookup: the index in `takers`. -1, where nothing is: nobody is chosen. */
static __always_inline int taker_of(struct bpf_sk_lookup *ctx, u32 slot) {
    u32 hash = 0, zero = 0;
    struct conf_entry *c = conf.lookup(&zero);
    if (!c || !c->takers)
        return -1;
    hash = c->choice_key;
    if (ctx->family == AF_INET) {
        hash = mixed(mixed(hash, ctx->remote_ip4), ctx->local_ip4);
    } else {
        hash = mixed(mixed(hash, ctx->remote_ip6[0]), ctx->local_ip6[0]);
        hash = mixed(mixed(hash, ctx->remote_ip6[1]), ctx->local_ip6[1]);
        hash = mixed(mixed(hash, ctx->remote_ip6[2]), ctx->local_ip6[2]);
        hash = mixed(mixed(hash, ctx->remote_ip6[3]), ctx->local_ip6[3]);
    }
    /* Its ring was chosen before the lookup, or a worker has chosen the port of its own dial so that it comes back to
     * itself (agent/proxy/own_share.py). What comes for HBONE is neither. */
    if ((c->owners && slot != SLOT_HBONE) || (c->is_plaintext_by_ports && slot == SLOT_PLAINTEXT))
        return slot * OWNERS_MAX + chosen(hash, ctx->remote_port, __builtin_bswap16(ctx->local_port), c->choice_key,
                                          c->takers);
    return slot * OWNERS_MAX + next_of(hash, slot, c->takers);
}

/* Whether the proxy has accepted this connection, or is accepting it. One in TIME_WAIT begins anew. */
static __always_inline int is_under_way(struct __sk_buff *skb, struct bpf_sock_tuple *t, u8 is_v6, u64 netns) {
    struct bpf_sock *sk = find(skb, t, is_v6, netns);
    if (!sk)
        return 0;
    u32 state = sk->state;
    bpf_sk_release(sk);
    return state != BPF_TCP_LISTEN && state != BPF_TCP_TIME_WAIT;
}

/* Until when a rate of one in `every_ns` is used up, if one more comes now. */
static __always_inline u64 later(u64 due_ns, u64 now_ns, u64 every_ns) {
    return (due_ns < now_ns ? now_ns : due_ns) + every_ns;
}

/* Whether there is room for one more of what comes once in `every_ns` on average, and so many at once; then it is taken.
 * CPUs may overtake each other here: a few more pass. */
static __always_inline int takes(u64 *used_until_ns, u64 now_ns, u64 every_ns, u64 at_once) {
    u64 due_ns = later(*used_until_ns, now_ns, every_ns);
    if (due_ns - now_ns > at_once * every_ns)
        return 0;
    *used_until_ns = due_ns;
    return 1;
}

static __always_inline struct pod_rates *rates_of(u32 ifindex) {
    struct pod_rates none = {};
    return rates.lookup_or_try_init(&ifindex, &none);
}

static __always_inline int takes_syn(u32 ifindex, u8 hook, u64 now_ns) {
    struct pod_rates *used = rates_of(ifindex);
    if (!used)
        return 0;
    u64 *until_ns = hook == HOOK_FROM_POD ? &used->outbound_due_ns : &used->inbound_due_ns;
    return takes(until_ns, now_ns, SYN_EVERY_NS, SYN_BURST);
}

/* Whether the proxy takes one more query of the pod: its pods share the queue of a socket, and one of them may not fill it. */
static __always_inline int takes_dns(u32 ifindex) {
    struct pod_rates *used = rates_of(ifindex);
    return used && takes(&used->dns_due_ns, bpf_ktime_get_ns(), DNS_EVERY_NS, DNS_BURST);
}

/* Whether the headers of a SYN are all there is to it. A VLAN tag lies beside the packet and would be lost; a header that
 * is no TCP's, or too long, is not copied; FIN and RST no stack answers. */
static __always_inline int may_be_copied(struct __sk_buff *skb, const struct packet *p) {
    return !skb->vlan_present && p->tcp_header_bytes >= TCP_FIXED_BYTES &&
           p->l4_offset + p->tcp_header_bytes <= HELD_FRAME_MAX && !(p->tcp_flags & (TCP_FIN | TCP_RST));
}

/* Of such a one. Answers whether they are there. */
static __always_inline int copied(struct __sk_buff *skb, const struct packet *p, struct held_syn *to, u32 ifindex,
                                  u8 hook, u64 now_ns) {
    u64 bytes = p->l4_offset + p->tcp_header_bytes;
    to->at_ns = now_ns;
    to->ifindex = ifindex;
    to->hook = hook;
    to->l4_offset = p->l4_offset;
    to->frame_bytes = bytes;
    to->reserved = 0;
    /* Kernel quirk: of two comparisons clang makes one, or compares two copies of what it has put aside, and the verifier
     * (6.1) then knows no lower bound. So there is one, and the length is made of what is compared. */
    u64 over_least = bytes - LEAST_HEADER_BYTES;
    opaque(over_least);
    if (over_least > HELD_FRAME_MAX - LEAST_HEADER_BYTES)
        return 0;
    bytes = over_least + LEAST_HEADER_BYTES;
    return !bpf_skb_load_bytes(skb, 0, to->frame, bytes);
}

/* Notes a SYN that ends here because nobody serves: whoever does next lets it in again, and its client need not wait for
 * its own next try. The newest of a connection counts, and of too many the newest. */
static __always_inline void note_waiting(struct __sk_buff *skb, const struct packet *p, struct flow_key *flow,
                                         u32 ifindex) {
    u32 only = 0;
    /* This CPU's alone: no program is begun before another one of ours has ended. */
    struct held_syn *draft = drafts.lookup(&only);
    if (draft && may_be_copied(skb, p) && copied(skb, p, draft, ifindex, flow->hook, bpf_ktime_get_ns()))
        waiting.update(flow, draft);
}

static __always_inline enum hold hold(struct __sk_buff *skb, const struct packet *p, struct bpf_sock_tuple *t,
                                      u32 ifindex, struct conf_entry *c, u8 hook) {
    u32 owners = c->owners;
    if (!owners || !may_be_copied(skb, p))
        return NOT_HELD;
    if (is_under_way(skb, t, p->is_v6, hook == HOOK_FROM_POD ? c->pod_side_nsid : c->net_side_nsid))
        return OF_CONNECTION;
    u64 now_ns = bpf_ktime_get_ns();
    if (!takes_syn(ifindex, hook, now_ns))
        return OVER_BUDGET;
    int owner = owner_of(p, c->choice_key, owners);
    void *ring = rings.lookup(&owner);
    if (!ring)
        return WITHOUT_RING;
    struct held_syn *held = ringbuf_reserve(ring, sizeof(*held), 0);
    if (!held)
        return WITHOUT_RING;
    if (!copied(skb, p, held, ifindex, hook, now_ns)) {
        ringbuf_discard(held, 0);
        return NOT_HELD;
    }
    ringbuf_submit(held, 0);
    return HELD;
}

/* Whether this is a held SYN that the proxy lets in: it sends the copy out of its private namespace with a source MAC
 * that is nobody's. Asked of bare SYNs only, so that it costs others nothing. */
static __always_inline int is_let_in(struct __sk_buff *skb, const struct packet *p) {
    u8 mac[6];
    if (!is_bare_syn(p) || bpf_skb_load_bytes(skb, 6, mac, 6))
        return 0;
    /* the source: MARKER_MAC of agent/wire/held_syn.py */
    return mac[0] == 0x02 && mac[1] == 'z' && mac[2] == 't' && mac[3] == 'u' && mac[4] == 'n' && mac[5] == 'S';
}

/* Into the namespace that it has just come out of, as if it came from outside: so the lookup sees it. */
static __always_inline u64 back(struct __sk_buff *skb, u32 reason) {
    opaque(skb);
    return by(reason, bpf_redirect(skb->ifindex, 0));
}

#endif
