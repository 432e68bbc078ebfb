/* Who has had a packet: what `from_pod` and `to_pod` pass on is noted, and the guards behind them ask.
 *
 * A guard is a clsact filter of the same hook. Filters live in the device, and tcx links by their pins and whoever holds
 * them: where nobody does any more the links are gone, and the guard drops what was not seen. It is noted which packet it
 * is by where it lies: of one processor, between two programs of one hook, nothing comes in between, and programs of
 * others may write what they like into it meanwhile (into cb[], into the mark). */
#ifndef ZTUN_SEEN_H
#define ZTUN_SEEN_H

/* The verdict again, and a note of the packet where it goes on. */
static __always_inline int passed_on(struct __sk_buff *skb, int verdict, u32 hook) {
    u32 only = 0;
    struct seen *note;
    if (verdict != NEXT)
        return verdict;
    note = seen.lookup(&only);
    if (note) {
        note->packet = (u64)skb;
        note->ifindex = skb->ifindex;
        note->hook = hook;
    }
    return verdict;
}

/* Whether a packet was passed on a moment ago, by the program of this hook. The note counts once: what comes later may
 * lie where this one did. */
static __always_inline int was_passed_on(struct __sk_buff *skb, u32 hook) {
    u32 only = 0;
    struct seen *note = seen.lookup(&only);
    if (!note || note->packet != (u64)skb || note->ifindex != skb->ifindex || note->hook != hook)
        return 0;
    note->packet = 0;
    return 1;
}

/* Builds that know of no guards write entries without this flag: beneath them guards let everything pass. */
static __always_inline int is_guarded(struct __sk_buff *skb) {
    u32 ifindex = skb->ifindex;
    struct iface_entry *i = ifaces.lookup(&ifindex);
    return i && (flags_of(i) & FLAG_GUARDED);
}

#endif
