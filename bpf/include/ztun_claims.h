/* What a pod tells its link about who is where: it may speak for itself alone.
 *
 * Whoever answers for another's address, by ARP (RFC 826) or neighbour discovery (RFC 4861), is sent what is meant for
 * the other; who calls himself a router is sent everything. So a captured pod says that for its own addresses only, and
 * for the link-local one that its kernel makes of its MAC. On a bridge its frames carry its own MAC: bridges learn from
 * any other where to send that one's frames. */
#ifndef ZTUN_CLAIMS_H
#define ZTUN_CLAIMS_H

#define ND_ROUTER_SOLICITATION 133
#define ND_ROUTER_ADVERTISEMENT 134
#define ND_TARGET_END 24 /* of a solicitation or advertisement of a neighbour, up to the end of its target */
#define EUI64_FLIP 2     /* RFC 4291, appendix A */

enum claim { OF_ITSELF = 0, OF_ANOTHER, OF_ROUTER };

/* A MAC of zeroes: what the pod has is not known (closed off, or entered by an older layout). */
static __always_inline int is_known_mac(const u8 *mac) {
    return mac[0] | mac[1] | mac[2] | mac[3] | mac[4] | mac[5];
}

/* Whether a pod may say of an address that it has it. While the pod is closed off its own are not known: only what is
 * known to be of others is not for it. */
static __always_inline int may_claim(const struct addr16 *address, int is_v6, const struct iface_entry *i, u32 ifindex) {
    const u8 *b = address->bytes, *mac = i->mac;
    if (is_zero(&i->addr4) && is_zero(&i->addr6)) {
        struct pod_entry *owner = pods.lookup(address);
        return !hostips.lookup(address) && (!owner || owner->ifindex == ifindex);
    }
    if (!is_v6)
        return same_address(address, &i->addr4);
    if (same_address(address, &i->addr6))
        return 1;
    if (b[0] != 0xfe || (b[1] & 0xc0) != 0x80)
        return 0;
    u8 own[8] = {mac[0] ^ EUI64_FLIP, mac[1], mac[2], 0xff, 0xfe, mac[3], mac[4], mac[5]};
    int differs = b[1] ^ 0x80;
#pragma unroll
    for (int n = 0; n < 6; n++)
        differs |= b[2 + n];
#pragma unroll
    for (int n = 0; n < 8; n++)
        differs |= b[8 + n] ^ own[n];
    return !differs || !is_known_mac(mac);
}

/* Whether a frame of a pod on a bridge has the MAC of somebody else as its source. */
static __always_inline int is_anothers_frame(struct __sk_buff *skb, const struct iface_entry *i) {
    u8 source[6];
    if (!i->bridge_ifindex || !is_known_mac(i->mac) || bpf_skb_load_bytes(skb, 6, source, 6))
        return 0;
    return !is_same_mac(source, i->mac);
}

/* Whether ARP of a pod is not about itself, or no ARP that anybody understands. Who has no address yet may ask whether
 * somebody has one (RFC 5227): nobody learns anything from that. */
static __always_inline int is_arp_of_another(struct __sk_buff *skb, const struct iface_entry *i, u32 ifindex) {
    u8 arp[ARP_BYTES];
    struct addr16 sender;
    if (bpf_skb_load_bytes(skb, ETH_BYTES, arp, ARP_BYTES) || !is_arp(arp))
        return 1;
    if (arp[7] == ARP_REQUEST && !(arp[14] | arp[15] | arp[16] | arp[17]))
        return 0;
    map_v4(&sender, arp + 14);
    return !may_claim(&sender, 0, i, ifindex);
}

/* What ICMP of a pod says of who is where; one that cannot be read is of another. */
static __always_inline enum claim claim_of(struct __sk_buff *skb, const struct packet *p, const struct iface_entry *i,
                                           u32 ifindex) {
    u8 nd[ND_TARGET_END];
    struct addr16 target;
    if (is_icmp_redirect(skb, p))
        return OF_ROUTER;
    if (!p->is_v6 || p->protocol != ICMP6 || p->is_later_fragment || bpf_skb_load_bytes(skb, p->l4_offset, nd, 1))
        return OF_ITSELF;
    if (nd[0] == ND_ROUTER_ADVERTISEMENT)
        return OF_ROUTER;
    if (nd[0] == ND_ROUTER_SOLICITATION)
        /* of nobody: it tells no MAC */
        return is_zero(&p->saddr_be) || may_claim(&p->saddr_be, 1, i, ifindex) ? OF_ITSELF : OF_ANOTHER;
    if (nd[0] != ND_SOLICITATION && nd[0] != ND_ADVERTISEMENT)
        return OF_ITSELF;
    if (bpf_skb_load_bytes(skb, p->l4_offset, nd, ND_TARGET_END))
        return OF_ANOTHER;
    __builtin_memcpy(target.bytes, nd + 8, 16);
    /* an answer is about its target; so is a question of nobody (duplicate address detection); others tell of who asks */
    if (nd[0] == ND_ADVERTISEMENT || is_zero(&p->saddr_be))
        return may_claim(&target, 1, i, ifindex) ? OF_ITSELF : OF_ANOTHER;
    return may_claim(&p->saddr_be, 1, i, ifindex) ? OF_ITSELF : OF_ANOTHER;
}

#endif
