/* Break glass: a pod, or every pod of the node, whose connections go past the proxy until a time that is checked here, with
 * every packet. So it ends when it should, whether or not a process of ztun lives then.
 *
 * What passes is what began while it is open. Once that is over such a connection is the proxy's, which knows nothing of it
 * and resets whoever sends. The clock goes on while the machine is suspended. */
#ifndef ZTUN_OPENINGS_H
#define ZTUN_OPENINGS_H

#define NS_PER_S 1000000000ull

/* The flags of an interface as they count now. One that was learnt until its time was over is closed: whoever was to
 * capture it may not live any more. */
static __always_inline u32 flags_of(const struct iface_entry *i) {
    u32 flags = i->flags;
    if ((flags & FLAG_LEARN) && i->learnt_until_s * NS_PER_S <= bpf_ktime_get_boot_ns())
        return FLAG_ENROLLED | FLAG_GUARDED;
    return flags;
}

/* Since when the pod behind a host veth is open, in ns; 0: it is not. */
static __always_inline u64 open_since(u32 ifindex, const struct iface_entry *i) {
    u32 node = OF_NODE;
    u64 *last_ns = open_until.lookup(&node);
    /* all there is to it where nothing was opened since the machine started */
    if (!last_ns || !*last_ns)
        return 0;
    u64 now_ns = bpf_ktime_get_boot_ns();
    if (*last_ns <= now_ns)
        return 0;
    struct opening *all = openings.lookup(&node);
    if (all && all->until_ns > now_ns)
        return all->since_ns;
    struct opening *own = openings.lookup(&ifindex);
    if (!own || own->until_ns <= now_ns)
        return 0;
    if (!same_address(&own->addr4, &i->addr4) || !same_address(&own->addr6, &i->addr6))
        return 0;
    return own->since_ns;
}

/* The SYN of a connection with this key of HOOK_OPEN went past the proxy. */
static __always_inline void note_opened(struct flow_key *key, u32 ifindex) {
    struct host_flow opened = {.ifindex = ifindex, .at_s = bpf_ktime_get_boot_ns() / NS_PER_S};
    hostflows.update(key, &opened);
}

/* Whether it did so in this opening: in an earlier one the proxy may have had the same tuple since. */
static __always_inline int began_open(struct flow_key *key, u64 since_ns) {
    struct host_flow *noted = hostflows.lookup(key);
    return noted && (noted->at_s + 1) * NS_PER_S > since_ns;
}

/* Whether what is sent to a pod that is open may enter. With --local-path=host workers dial pods of this node by way of the
 * host: what such a pod sends is theirs, unless it is open itself. */
static __always_inline int may_enter_open(const struct packet *p, const struct conf_entry *c) {
    if (p->dport_be == __builtin_bswap16(HBONE_PORT))
        return 0;
    if (!c->is_plaintext_by_ports)
        return 1;
    struct pod_entry *sender = pods.lookup((struct addr16 *)&p->saddr_be);
    if (!sender)
        return 1;
    u32 ifindex = sender->ifindex;
    struct iface_entry *i = ifaces.lookup(&ifindex);
    return i && open_since(ifindex, i);
}

#endif
