/* How large segments become. Both ends of a connection say in their SYN what they can take (MSS); the proxy's
 * stack knows the MTU of the inner devices only, which is that of the largest pod. So the MSS is lowered to the
 * pod's own in each SYN and SYN-ACK that crosses, and what is still too large does not leave. */
#ifndef ZTUN_SEGMENTS_H
#define ZTUN_SEGMENTS_H

#define TCP_FIXED_BYTES 20
#define TCP_OPTIONS_MAX 40 /* of one byte each */
#define OPTION_END 0
#define OPTION_NOP 1
#define OPTION_MSS 2
#define OPTION_MSS_BYTES 4
#define CHECKSUM_AT 16

/* The MSS at `at`, counted from the TCP header. The checksum adds up words that begin at even places. */
static __always_inline void lower_mss(struct __sk_buff *skb, u32 l4_offset, u32 at, u16 limit_bytes) {
    u16 from_be, to_be = __builtin_bswap16(limit_bytes);
    if (bpf_skb_load_bytes(skb, l4_offset + at, &from_be, 2) || __builtin_bswap16(from_be) <= limit_bytes)
        return;
    int is_odd = at & 1;
    bpf_l4_csum_replace(skb, l4_offset + CHECKSUM_AT, is_odd ? __builtin_bswap16(from_be) : from_be,
                        is_odd ? limit_bytes : to_be, 2);
    bpf_skb_store_bytes(skb, l4_offset + at, &to_be, 2, 0);
}

/* The options of a TCP header, where in them the next one starts and where they end. These two stay in memory, at
 * odd places, where the verifier does not follow them: it would try each combination of lengths and give up. */
struct options {
    u8 bytes[TCP_OPTIONS_MAX + 1]; /* what is not there is zero: the end of the list */
    volatile u8 next;
    volatile u8 end;
};

/* Every MSS option, as the last one counts. Options that cannot be read end the walk for us as they do for the
 * receiver (tcp_parse_options); a SYN without MSS stands for 536 bytes and stays as it is. */
static __always_inline void lower_each_mss(struct __sk_buff *skb, const struct packet *p, u16 limit_bytes) {
    struct options options = {};
    /* Kernel quirk: clang compares a copy with another constant taken off, and the verifier (6.1) then knows no bound
     * of the length itself. So the length is made of what is compared. */
    u64 after_first = (u64)p->tcp_header_bytes - TCP_FIXED_BYTES - 1;
    opaque(after_first);
    if (after_first > TCP_OPTIONS_MAX - 1)
        return;
    u64 bytes = after_first + 1;
    if (bpf_skb_load_bytes(skb, p->l4_offset + TCP_FIXED_BYTES, options.bytes, bytes))
        return;
    options.end = bytes;
    for (u32 i = 0; i < TCP_OPTIONS_MAX; i++) {
        u8 kind = options.bytes[i], size = options.bytes[i + 1];
        if (i < options.next || kind == OPTION_NOP)
            continue;
        if (kind == OPTION_END || size < 2 || i + size > options.end)
            return;
        if (kind == OPTION_MSS && size == OPTION_MSS_BYTES)
            lower_mss(skb, p->l4_offset, TCP_FIXED_BYTES + i + 2, limit_bytes);
        options.next = i + size;
    }
}

static __always_inline int is_syn(const struct packet *p) {
    return p->protocol == TCP && (p->tcp_flags & TCP_SYN);
}

static __always_inline void fit_syn(struct __sk_buff *skb, const struct packet *p, u16 limit_bytes) {
    if (is_syn(p))
        lower_each_mss(skb, p, limit_bytes);
}

/* The same, when only the pod's address is known. */
static __always_inline void fit_syn_of(struct __sk_buff *skb, const struct packet *p, const struct addr16 *pod_be) {
    if (!is_syn(p))
        return;
    struct addr16 key = *pod_be;
    struct pod_entry *pod = pods.lookup(&key);
    if (pod)
        lower_each_mss(skb, p, pod->mss_bytes);
}

/* Whether a packet is larger than an MTU; of a bundle of segments (GSO) each counts. */
static __always_inline int is_larger_than(struct __sk_buff *skb, const struct packet *p, u16 mtu_bytes) {
    u32 largest = skb->len;
    if (skb->gso_size)
        largest = p->l4_offset + p->tcp_header_bytes + skb->gso_size;
    return largest > ETH_BYTES + (u32)mtu_bytes;
}

#endif
