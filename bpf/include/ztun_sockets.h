/* Questions about sockets: has the proxy this connection, has the host, does anyone listen.
 *
 * "Established" means any TCP socket of the tuple but a listener: request sockets and TIME_WAIT count. */
#ifndef ZTUN_SOCKETS_H
#define ZTUN_SOCKETS_H

#define BPF_TCP_LISTEN 10

static __always_inline void tuple_of(struct bpf_sock_tuple *t, const struct packet *p) {
    __builtin_memset(t, 0, sizeof(*t));
    if (p->is_v6) {
        __builtin_memcpy(t->ipv6.saddr, p->saddr_be.bytes, 16);
        __builtin_memcpy(t->ipv6.daddr, p->daddr_be.bytes, 16);
        t->ipv6.sport = p->sport_be;
        t->ipv6.dport = p->dport_be;
    } else {
        __builtin_memcpy(&t->ipv4.saddr, p->saddr_be.bytes + 12, 4);
        __builtin_memcpy(&t->ipv4.daddr, p->daddr_be.bytes + 12, 4);
        t->ipv4.sport = p->sport_be;
        t->ipv4.dport = p->dport_be;
    }
}

static __always_inline struct bpf_sock *find(struct __sk_buff *skb, struct bpf_sock_tuple *t, u8 is_v6, u64 netns) {
    if (is_v6)
        return bpf_skc_lookup_tcp(skb, t, sizeof(t->ipv6), netns, 0);
    return bpf_skc_lookup_tcp(skb, t, sizeof(t->ipv4), netns, 0);
}

/* Whether a namespace has the connection of this tuple (source = the far end). */
static __always_inline int has_connection(struct __sk_buff *skb, struct bpf_sock_tuple *t, u8 is_v6, u64 netns) {
    struct bpf_sock *sk = find(skb, t, is_v6, netns);
    if (!sk)
        return 0;
    int found = sk->state != BPF_TCP_LISTEN;
    bpf_sk_release(sk);
    return found;
}

/* Whether the packet answers a connection that a socket of this host opened: the socket is there, and nobody
 * listens on its port (a service of the host would have been dialled by the pod, which is captured). */
static __always_inline int host_opened(struct __sk_buff *skb, const struct packet *p) {
    struct bpf_sock_tuple t;
    tuple_of(&t, p);
    if (!has_connection(skb, &t, p->is_v6, BPF_F_CURRENT_NETNS))
        return 0;
    if (p->is_v6)
        t.ipv6.sport = 0;
    else
        t.ipv4.sport = 0;
    struct bpf_sock *sk = find(skb, &t, p->is_v6, BPF_F_CURRENT_NETNS);
    if (!sk)
        return 1;
    int listens = sk->state == BPF_TCP_LISTEN;
    bpf_sk_release(sk);
    return !listens;
}

/* Whether what a socket of this host opens goes to captured pods past the proxy. */
static __always_inline int passes_from_host(struct __sk_buff *skb, const struct conf_entry *c) {
    return !c->host_cgroup || bpf_skb_cgroup_id(skb) == c->host_cgroup;
}

/* Whether a socket of UDP in a namespace waits for this answer. Those of the net side are all connected: one that only
 * has the port would be found too. */
static __always_inline int is_asked(struct __sk_buff *skb, const struct packet *p, u64 netns) {
    struct bpf_sock_tuple t;
    tuple_of(&t, p);
    struct bpf_sock *sk = bpf_sk_lookup_udp(skb, &t, p->is_v6 ? sizeof(t.ipv6) : sizeof(t.ipv4), netns, 0);
    if (!sk)
        return 0;
    bpf_sk_release(sk);
    return 1;
}

static __always_inline int has_listener(int slot) {
    struct bpf_sock *sk = (struct bpf_sock *)socks.lookup(&slot);
    if (!sk)
        return 0;
    bpf_sk_release(sk);
    return 1;
}

/* An ICMP error carries the packet it is about: reads that one, turned round, as the far end would answer it.
 * So `inner` has as source the address that the packet had been sent to. Answers 0 when this is no ICMP error
 * about TCP. An inner packet with IPv6 extension headers is not looked into: such errors pass. */
static __always_inline int icmp_error_about(struct __sk_buff *skb, const struct packet *p, struct packet *inner) {
    u8 type, ip[40], ports[4];
    __builtin_memset(inner, 0, sizeof(*inner));
    if (p->is_later_fragment || bpf_skb_load_bytes(skb, p->l4_offset, &type, 1))
        return 0;
    u32 at = p->l4_offset + 8;
    if (p->protocol == ICMP4 && !p->is_v6) {
        if (type != 3 && type != 11 && type != 12)
            return 0;
        if (bpf_skb_load_bytes(skb, at, ip, 20) || (ip[0] >> 4) != 4 || ip[9] != TCP)
            return 0;
        map_v4(&inner->daddr_be, ip + 12);
        map_v4(&inner->saddr_be, ip + 16);
        at += (ip[0] & 15) * 4;
    } else if (p->protocol == ICMP6 && p->is_v6) {
        if (type >= 128)
            return 0;
        if (bpf_skb_load_bytes(skb, at, ip, 40) || (ip[0] >> 4) != 6 || ip[6] != TCP)
            return 0;
        __builtin_memcpy(inner->daddr_be.bytes, ip + 8, 16);
        __builtin_memcpy(inner->saddr_be.bytes, ip + 24, 16);
        inner->is_v6 = 1;
        at += 40;
    } else {
        return 0;
    }
    if (bpf_skb_load_bytes(skb, at, ports, 4))
        return 0;
    __builtin_memcpy(&inner->dport_be, ports, 2);
    __builtin_memcpy(&inner->sport_be, ports + 2, 2);
    inner->protocol = TCP;
    return 1;
}

#endif
