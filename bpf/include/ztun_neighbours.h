/* Neighbours of pods on a bridge: who they are, and whose MAC a frame in a pod's name needs.
 *
 * A pod that is alone with the node on its link sends everything to the node. One on a bridge sends straight to its
 * neighbours, past routing and FORWARD: so must what is sent in its name. It learns their MACs by ARP and neighbour
 * discovery; to_pod sees the same packets and learns from the same fields, under the same conditions (RFC 826, RFC
 * 4861 7.2). What it does not know is noted in `wanted`, and user space has the pod's own kernel ask. */
#ifndef ZTUN_NEIGHBOURS_H
#define ZTUN_NEIGHBOURS_H

#define ARP_BYTES 28
#define ARP_REQUEST 1
#define ARP_REPLY 2
#define ND_SOLICITATION 135
#define ND_ADVERTISEMENT 136
#define ND_SOURCE_MAC 1
#define ND_TARGET_MAC 2
#define ND_SOLICITED 0x40

enum next_hop { NOWHERE = 0, GATEWAY, NEIGHBOUR };

/* Whether an address has the bits of a pod's own that its mask has; never where the pod has none. */
static __always_inline int is_near(const struct addr16 *address, const struct addr16 *own, const struct addr16 *mask) {
    const u64 *x = (const u64 *)address, *y = (const u64 *)own, *m = (const u64 *)mask;
    return !is_zero(own) && !(((x[0] ^ y[0]) & m[0]) | ((x[1] ^ y[1]) & m[1]));
}

/* Whether a pod on a bridge reaches an address without a gateway. */
static __always_inline int is_linked(const struct iface_entry *i, const struct addr16 *address, int is_v6) {
    if (is_v6)
        return is_near(address, &i->addr6, &i->mask6);
    return is_near(address, &i->addr4, &i->mask4);
}

static __always_inline int is_same_mac(const u8 *a, const u8 *b) {
    return !((a[0] ^ b[0]) | (a[1] ^ b[1]) | (a[2] ^ b[2]) | (a[3] ^ b[3]) | (a[4] ^ b[4]) | (a[5] ^ b[5]));
}

static __always_inline struct neighbour *neighbour_of(struct neighbour_key *key) {
    struct neighbour *n = neighbours.lookup(key);
    if (n && !n->is_used)
        n->is_used = 1;
    return n;
}

static __always_inline void ask_for(struct neighbour_key *key) {
    u32 one = 1;
    wanted.update(key, &one);
}

/* Puts the right destination into a frame in the name of a pod on a bridge; that of `macs` is there already. */
static __always_inline int to_next_hop(struct __sk_buff *skb, const struct packet *p, const struct pod_entry *pod,
                                       const struct iface_entry *i) {
    struct neighbour_key key = {.ifindex = pod->ifindex};
    /* its own address: the node sends that back, a bridge does not */
    if (is_linked(i, &p->daddr_be, p->is_v6) && !same_address(&p->daddr_be, &p->saddr_be)) {
        key.address = p->daddr_be;
        struct neighbour *n = neighbour_of(&key);
        if (n) {
            bpf_skb_store_bytes(skb, 0, n->mac, 6, 0);
            return NEIGHBOUR;
        }
        if (hostips.lookup(&key.address)) {
            bpf_skb_store_bytes(skb, 0, i->bridge_mac, 6, 0);
            return NEIGHBOUR;
        }
        ask_for(&key);
        struct pod_entry *other = pods.lookup(&key.address);
        if (other && other->bridge_ifindex == pod->bridge_ifindex) {
            bpf_skb_store_bytes(skb, 0, other->macs + 6, 6, 0);
            return NEIGHBOUR;
        }
        /* until the answer is there: a router sends it back onto the link */
    }
    if (p->is_v6)
        key.address = i->gateway6;
    else
        key.address = i->gateway4;
    if (!is_zero(&key.address)) {
        struct neighbour *n = neighbour_of(&key);
        if (n) {
            bpf_skb_store_bytes(skb, 0, n->mac, 6, 0);
            return GATEWAY;
        }
        ask_for(&key);
    }
    const u16 *mac = (const u16 *)pod->macs;
    return mac[0] | mac[1] | mac[2] ? GATEWAY : NOWHERE;
}

/* An address and its MAC were told to a pod on a bridge; `is_answer`: to this pod alone. Who tells all is heard
 * only if he is known already. */
static __always_inline void learn(const struct iface_entry *i, u32 ifindex, const struct addr16 *address, int is_v6,
                                  const u8 *mac, int is_answer) {
    struct neighbour_key key = {.ifindex = ifindex, .address = *address};
    struct neighbour fresh = {};
    __builtin_memcpy(fresh.mac, mac, 6);
    if ((mac[0] & 1) || !(mac[0] | mac[1] | mac[2] | mac[3] | mac[4] | mac[5]))
        return;
    if (is_zero(address))
        return; /* duplicate address detection */
    int is_gateway = is_v6 ? same_address(address, &i->gateway6) : same_address(address, &i->gateway4);
    /* the node itself is found by its bridge, whatever MAC that has */
    if (!is_gateway && (!is_linked(i, address, is_v6) || hostips.lookup(&key.address)))
        return;
    struct neighbour *known = neighbours.lookup(&key);
    if (!known && !is_answer)
        return;
    if (known && (known->is_permanent || is_same_mac(known->mac, mac)))
        return;
    neighbours.update(&key, &fresh);
}

/* Whether it is a question or an answer about Ethernet and IPv4, and says so of their lengths. */
static __always_inline int is_arp(const u8 *arp) {
    if (arp[0] || arp[1] != 1 || arp[2] != 8 || arp[3] || arp[4] != 6 || arp[5] != 4 || arp[6])
        return 0;
    return arp[7] == ARP_REQUEST || arp[7] == ARP_REPLY;
}

/* ARP that is sent to a pod: the sender of a request is told as well as that of a reply. */
static __always_inline void learn_arp(struct __sk_buff *skb, const struct iface_entry *i, u32 ifindex) {
    u8 arp[ARP_BYTES];
    if (bpf_skb_load_bytes(skb, ETH_BYTES, arp, ARP_BYTES))
        return;
    if (!is_arp(arp))
        return;
    struct addr16 sender, target;
    map_v4(&sender, arp + 14);
    map_v4(&target, arp + 24);
    learn(i, ifindex, &sender, 0, arp + 8, same_address(&target, &i->addr4));
}

/* Whether a packet asks for a MAC by IPv6, or tells one. */
static __always_inline int is_neighbour_discovery(struct __sk_buff *skb, const struct packet *p) {
    u8 type;
    if (!p->is_v6 || p->protocol != ICMP6 || p->is_later_fragment || bpf_skb_load_bytes(skb, p->l4_offset, &type, 1))
        return 0;
    return type == ND_SOLICITATION || type == ND_ADVERTISEMENT;
}

/* Neighbour solicitations (the source tells its MAC) and advertisements (the target does) that are sent to a pod.
 * The MAC is looked for in the first option only: nobody sends another before it. */
static __always_inline void learn_nd(struct __sk_buff *skb, const struct packet *p, const struct iface_entry *i,
                                     u32 ifindex) {
    u8 nd[32];
    if (p->protocol != ICMP6 || p->is_later_fragment || bpf_skb_load_bytes(skb, p->l4_offset, nd, 32) || nd[25] != 1)
        return;
    struct addr16 target;
    __builtin_memcpy(target.bytes, nd + 8, 16);
    if (nd[0] == ND_SOLICITATION && nd[24] == ND_SOURCE_MAC)
        learn(i, ifindex, &p->saddr_be, 1, nd + 26, same_address(&target, &i->addr6));
    else if (nd[0] == ND_ADVERTISEMENT && nd[24] == ND_TARGET_MAC)
        learn(i, ifindex, &target, 1, nd + 26, nd[4] & ND_SOLICITED);
}

#endif
