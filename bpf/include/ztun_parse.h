/* Reads a packet's addresses, protocol, ports and TCP flags.
 *
 * Headers are copied by bpf_skb_load_bytes, so a packet in fragments of memory is read as well as a linear one.
 * What cannot be read with certainty (an IP fragment, a routing header, too many options, a cut header) is
 * UNCLASSIFIABLE: the callers drop it for enrolled pods, unless `protocol` says that it is UDP for sure.
 * An IP header that cannot be read leaves `saddr_be` all zero, which no address of IPv4 is (::ffff:a.b.c.d). */
#ifndef ZTUN_PARSE_H
#define ZTUN_PARSE_H

#define __always_inline inline __attribute__((always_inline))

#define ETH_BYTES 14
#define ETH_P_IP_BE __builtin_bswap16(0x0800)
#define ETH_P_IPV6_BE __builtin_bswap16(0x86dd)
#define ETH_P_ARP_BE __builtin_bswap16(0x0806)
#define TCP 6
#define UDP 17
#define ICMP4 1
#define ICMP6 58
#define HOP_BY_HOP 0
#define ROUTING 43
#define FRAGMENT 44
#define DESTINATION_OPTIONS 60
#define MOBILITY 135
#define TCP_FIN 0x01
#define TCP_SYN 0x02
#define TCP_RST 0x04
#define TCP_ACK 0x10
#define IPV6_OPTIONS_MAX 4

enum parsed { PARSED = 0, NOT_IP, NOT_TCP_UDP, UNCLASSIFIABLE };

struct packet {
    struct addr16 saddr_be;
    struct addr16 daddr_be;
    u16 sport_be;
    u16 dport_be;
    u8 protocol;
    u8 tcp_flags;
    u8 is_v6;
    u8 is_later_fragment; /* no header of its own at l4_offset */
    u8 tcp_header_bytes;  /* as it says itself: may be less than 20, or more than there is */
    u32 l4_offset;
};

static __always_inline void map_v4(struct addr16 *to, const u8 *from) {
    __builtin_memset(to->bytes, 0, 10);
    to->bytes[10] = 0xff;
    to->bytes[11] = 0xff;
    __builtin_memcpy(to->bytes + 12, from, 4);
}

static __always_inline int parse_l4(struct __sk_buff *skb, struct packet *p) {
    u8 l4[14];
    if (p->protocol == TCP) {
        /* up to the flags byte at 13 */
        if (bpf_skb_load_bytes(skb, p->l4_offset, l4, 14))
            return UNCLASSIFIABLE;
        p->tcp_header_bytes = (l4[12] >> 4) * 4;
        p->tcp_flags = l4[13];
    } else if (p->protocol == UDP) {
        if (bpf_skb_load_bytes(skb, p->l4_offset, l4, 8))
            return UNCLASSIFIABLE;
    } else {
        return NOT_TCP_UDP;
    }
    __builtin_memcpy(&p->sport_be, l4, 2);
    __builtin_memcpy(&p->dport_be, l4 + 2, 2);
    return PARSED;
}

static __always_inline int parse_v4(struct __sk_buff *skb, struct packet *p) {
    u8 ip[20];
    if (bpf_skb_load_bytes(skb, ETH_BYTES, ip, 20) || (ip[0] >> 4) != 4 || (ip[0] & 15) < 5)
        return UNCLASSIFIABLE;
    map_v4(&p->saddr_be, ip + 12);
    map_v4(&p->daddr_be, ip + 16);
    p->protocol = ip[9];
    p->l4_offset = ETH_BYTES + (ip[0] & 15) * 4;
    p->is_later_fragment = ((ip[6] & 0x1f) | ip[7]) != 0;
    /* More Fragments, or an offset: ports are missing or may be rewritten by an overlapping fragment */
    if (((ip[6] & 0x3f) | ip[7]) && (p->protocol == TCP || p->protocol == UDP))
        return UNCLASSIFIABLE;
    return parse_l4(skb, p);
}

/* Which header a fragment's whole begins with is told by the fragment at offset 0 (RFC 8200, 4.5). UDP and ICMP
 * straight behind it are what they say; anything else may hide a TCP header. */
static __always_inline int parse_fragment_v6(struct __sk_buff *skb, struct packet *p) {
    u8 fragment[8];
    if (bpf_skb_load_bytes(skb, p->l4_offset, fragment, 8))
        return UNCLASSIFIABLE;
    if (fragment[0] != UDP && fragment[0] != ICMP6)
        return UNCLASSIFIABLE;
    p->protocol = fragment[0];
    p->l4_offset += 8;
    p->is_later_fragment = (fragment[2] | (fragment[3] & 0xf8)) != 0;
    return p->protocol == UDP ? UNCLASSIFIABLE : NOT_TCP_UDP;
}

static __always_inline int parse_v6(struct __sk_buff *skb, struct packet *p) {
    u8 ip[40], option[2];
    if (bpf_skb_load_bytes(skb, ETH_BYTES, ip, 40) || (ip[0] >> 4) != 6)
        return UNCLASSIFIABLE;
    __builtin_memcpy(p->saddr_be.bytes, ip + 8, 16);
    __builtin_memcpy(p->daddr_be.bytes, ip + 24, 16);
    u8 next = ip[6];
    u32 at = ETH_BYTES + 40;
#pragma unroll
    for (int i = 0; i < IPV6_OPTIONS_MAX; i++) {
        if (next != HOP_BY_HOP && next != DESTINATION_OPTIONS)
            break;
        if (bpf_skb_load_bytes(skb, at, option, 2))
            return UNCLASSIFIABLE;
        next = option[0];
        at += (option[1] + 1) * 8;
    }
    p->protocol = next;
    p->l4_offset = at;
    if (next == FRAGMENT)
        return parse_fragment_v6(skb, p);
    /* options still: too many of them; the others hide what follows */
    if (next == HOP_BY_HOP || next == DESTINATION_OPTIONS || next == ROUTING || next == MOBILITY)
        return UNCLASSIFIABLE;
    return parse_l4(skb, p);
}

static __always_inline int parse(struct __sk_buff *skb, struct packet *p) {
    __builtin_memset(p, 0, sizeof(*p));
    u16 protocol_be = skb->protocol;
    if (protocol_be == ETH_P_IP_BE)
        return parse_v4(skb, p);
    if (protocol_be == ETH_P_IPV6_BE) {
        p->is_v6 = 1;
        return parse_v6(skb, p);
    }
    return NOT_IP;
}

static __always_inline int is_bare_syn(const struct packet *p) {
    return p->protocol == TCP && (p->tcp_flags & (TCP_SYN | TCP_ACK)) == TCP_SYN;
}

/* Whether a packet carries others, by a protocol that is not allowed to. */
static __always_inline int is_encapsulated(const struct packet *p, const struct conf_entry *c) {
    u32 bit = 0;
#define ZTUN_ENCAPSULATION_BIT(name, number)                                                                       \
    if (p->protocol == number)                                                                                     \
        bit = 1 << ENCAPSULATION_##name;
    ZTUN_ENCAPSULATIONS(ZTUN_ENCAPSULATION_BIT)
    return bit & ~c->allowed_encapsulations;
}

/* The same over UDP. Of a datagram in fragments the first one tells: without it nobody puts the rest together. */
static __always_inline int is_encapsulated_udp(struct __sk_buff *skb, struct packet *p, const struct conf_entry *c) {
    if (!p->dport_be && !p->is_later_fragment)
        parse_l4(skb, p);
    u32 bit = 0;
#define ZTUN_UDP_ENCAPSULATION_BIT(name, port, another)                                                            \
    if (p->dport_be == __builtin_bswap16(port) || p->dport_be == __builtin_bswap16(another))                       \
        bit = 1 << ENCAPSULATION_##name;
    ZTUN_UDP_ENCAPSULATIONS(ZTUN_UDP_ENCAPSULATION_BIT)
    return bit & ~c->allowed_encapsulations;
}

/* "Use another router": it would change where the pod sends, past the proxy. */
static __always_inline int is_icmp_redirect(struct __sk_buff *skb, const struct packet *p) {
    u8 type;
    if (p->protocol != (p->is_v6 ? ICMP6 : ICMP4) || p->is_later_fragment)
        return 0;
    return !bpf_skb_load_bytes(skb, p->l4_offset, &type, 1) && type == (p->is_v6 ? 137 : 5);
}

static __always_inline int same_address(const struct addr16 *a, const struct addr16 *b) {
    const u64 *x = (const u64 *)a, *y = (const u64 *)b;
    return x[0] == y[0] && x[1] == y[1];
}

static __always_inline int is_zero(const struct addr16 *a) {
    const u64 *x = (const u64 *)a;
    return !(x[0] | x[1]);
}

#endif
