/* Answers new connections that policy denies whatever else is so, before they cost a worker anything.
 *
 * Only what user space denies too: it has worked out which sources it lets to which port of a pod by nothing but addresses
 * and ports (agent/policy/prefilter.py), and takes an entry away before it allows more. So an entry that is missing, a map
 * that is full, a header that is not understood: the SYN goes to the proxy, which judges by itself.
 *
 * Some go there all the same, so that metrics and access log tell of them; they alone cost what each cost before. The
 * others are answered as the proxy's stack and worker would: with SYN and ACK, so that the ACK that follows is reset by the
 * private namespace, which knows nothing of it; of pods whose connects are honest, and at the tunnel port, with a reset. */
#ifndef ZTUN_PREFILTER_H
#define ZTUN_PREFILTER_H

#define OTHER_PORTS 0 /* of a set: those that have no entries of their own */
#define SAMPLE_EVERY_NS 100000000ull /* ten a second of a pod go to the proxy, */
#define SAMPLES_AT_ONCE 64           /* and so many at once */
#define TTL 64

/* What is changed of a header: everything before the checksum. */
struct segment_head {
    u16 sport_be;
    u16 dport_be;
    u32 seq_be;
    u32 ack_be;
    u8 offset;
    u8 flags;
    u16 window_be;
};
_Static_assert(sizeof(struct segment_head) == 16, "segment_head");

static __always_inline struct denial *denial_of(const struct packet *p, u32 set, u16 port_be) {
    struct denial_key key = {
        .prefix_bits = 8 * (sizeof(key) - sizeof(key.prefix_bits)),
        .set = set,
        .port_be = port_be,
        .saddr_be = p->saddr_be,
    };
    return denials.lookup(&key);
}

/* Whether the packet is a TCP header behind a plain IP header and nothing else. */
static __always_inline int is_header_only(struct __sk_buff *skb, const struct packet *p) {
    u16 bytes_be;
    if (skb->vlan_present || p->tcp_header_bytes < TCP_FIXED_BYTES || (p->tcp_flags & (TCP_FIN | TCP_RST)))
        return 0;
    if (p->is_v6)
        return p->l4_offset == ETH_BYTES + 40 && !bpf_skb_load_bytes(skb, ETH_BYTES + 4, &bytes_be, 2) &&
               __builtin_bswap16(bytes_be) == p->tcp_header_bytes;
    return p->l4_offset == ETH_BYTES + 20 && !bpf_skb_load_bytes(skb, ETH_BYTES + 2, &bytes_be, 2) &&
           __builtin_bswap16(bytes_be) == 20 + p->tcp_header_bytes;
}

/* What programs know of who is denied at the destination. */
static __always_inline struct prefiltered *prefiltered_of(const struct packet *p, u32 ifindex) {
    struct addr16 pod = p->daddr_be;
    struct prefiltered *of = prefiltered.lookup(&pod);
    return of && of->ifindex == ifindex ? of : 0;
}

/* What says that this bare SYN is denied, if programs may answer it. */
static __always_inline struct denial *denied(struct __sk_buff *skb, const struct packet *p,
                                             const struct prefiltered *of, const struct conf_entry *c) {
    if (!of || !p->dport_be)
        return 0;
    int is_plaintext = p->dport_be != __builtin_bswap16(HBONE_PORT);
    /* With --local-path=host it may be a worker that dials in the name of a pod, whose identity it knows. */
    if (is_plaintext && c->is_plaintext_by_ports && pods.lookup(&p->saddr_be))
        return 0;
    struct denial *found = denial_of(p, of->set, p->dport_be);
    /* What comes by a tunnel may be for any port. */
    if (!found && is_plaintext)
        found = denial_of(p, of->set, OTHER_PORTS);
    if (!found || !found->is_denied || !is_header_only(skb, p))
        return 0;
    return found;
}

/* Whether a denied SYN goes to the proxy all the same. */
static __always_inline int is_sample(struct prefiltered *of) {
    return takes(&of->samples_due_ns, bpf_ktime_get_ns(), SAMPLE_EVERY_NS, SAMPLES_AT_ONCE);
}

static __always_inline void turn_addresses(struct __sk_buff *skb, const struct packet *p) {
    if (p->is_v6) {
        bpf_skb_store_bytes(skb, ETH_BYTES + 8, p->daddr_be.bytes, 16, 0);
        bpf_skb_store_bytes(skb, ETH_BYTES + 24, p->saddr_be.bytes, 16, 0);
    } else {
        bpf_skb_store_bytes(skb, ETH_BYTES + 12, p->daddr_be.bytes + 12, 4, 0);
        bpf_skb_store_bytes(skb, ETH_BYTES + 16, p->saddr_be.bytes + 12, 4, 0);
    }
}

static __always_inline void renew_ttl(struct __sk_buff *skb, const struct packet *p) {
    u8 was[2], now[2] = {TTL, TCP};
    if (p->is_v6) {
        bpf_skb_store_bytes(skb, ETH_BYTES + 7, now, 1, 0);
        return;
    }
    if (bpf_skb_load_bytes(skb, ETH_BYTES + 8, was, 2))
        return;
    bpf_l3_csum_replace(skb, ETH_BYTES + 10, *(u16 *)was, *(u16 *)now, 2);
    bpf_skb_store_bytes(skb, ETH_BYTES + 8, now, 2, 0);
}

/* Makes of a SYN its answer, in place. Its options stay: the client ignores them, or gets its own. Swapped fields change no
 * sum; the checksum follows the others, also where a device is to complete it (CHECKSUM_PARTIAL). */
static __always_inline int turn_round(struct __sk_buff *skb, const struct packet *p, u32 key, int is_reset) {
    u8 macs[18];
    struct segment_head was, now;
    if (bpf_skb_load_bytes(skb, p->l4_offset, &was, sizeof(was)) || bpf_skb_load_bytes(skb, 0, macs, 12))
        return 0;
    now = was;
    now.sport_be = was.dport_be;
    now.dport_be = was.sport_be;
    now.ack_be = __builtin_bswap32(__builtin_bswap32(was.seq_be) + 1);
    now.flags = TCP_ACK | TCP_RST;
    now.seq_be = 0;
    if (!is_reset) {
        now.flags = TCP_ACK | TCP_SYN;
        /* The same for a SYN that comes again. */
        now.seq_be = mixed(mixed(key, was.seq_be), (u32)was.sport_be << 16 | was.dport_be);
    }
    /* Quirk: bcc declares an int, so half of the sums of 32 bits look like errors (seen on 6.1; newer kernels fold them
     * to 16). There is no error with lengths that the verifier knows. */
    u32 difference = bpf_csum_diff(&was.seq_be, 12, &now.seq_be, 12, 0);
    if (bpf_l4_csum_replace(skb, p->l4_offset + CHECKSUM_AT, 0, difference, 0))
        return 0;
    bpf_skb_store_bytes(skb, p->l4_offset, &now, sizeof(now), 0);
    turn_addresses(skb, p);
    renew_ttl(skb, p);
    __builtin_memcpy(macs + 12, macs, 6);
    bpf_skb_store_bytes(skb, 0, macs + 6, 12, 0);
    return 1;
}

/* Out of the pod's interface, as if the pod had sent it: from_pod knows it by its mark. */
static __always_inline u64 in_the_pods_name(struct __sk_buff *skb, u32 ifindex, u32 reason) {
    opaque(skb);
    skb->mark = MARK_PROXY;
    return by(reason, bpf_redirect(ifindex, BPF_F_INGRESS));
}

#endif
