/* The maps, shared by all programs through their pins. PIN is the directory of this layout.
 * bcc checks neither key nor value size of an existing pin: the layout hash in the directory name does. */
#ifndef ZTUN_MAPS_H
#define ZTUN_MAPS_H

BPF_TABLE_PINNED("hash", struct addr16, struct pod_entry, pods, 16384, PIN "/map_pods");
BPF_TABLE_PINNED("hash", u32, struct iface_entry, ifaces, 8192, PIN "/map_ifaces");
BPF_TABLE_PINNED("array", u32, struct conf_entry, conf, 1, PIN "/map_conf");
BPF_TABLE_PINNED("hash", struct addr16, u32, hostips, 4096, PIN "/map_hostips");
BPF_TABLE_PINNED("lru_hash", struct flow_key, struct host_flow, hostflows, 65536, PIN "/map_hostflows");
BPF_TABLE_PINNED("lru_hash", struct flow_key, u64, passthru, 65536, PIN "/map_passthru");
BPF_TABLE_PINNED("hash", u32, struct capture_count, captures, 8192, PIN "/map_captures");
/* Not allocated ahead: an entry is large, and no program makes one. */
BPF_TABLE_PINNED("hash", u32, struct owner, owners, 8192, PIN "/map_owners", BPF_F_NO_PREALLOC);
BPF_TABLE_PINNED("lru_hash", struct neighbour_key, struct neighbour, neighbours, 16384, PIN "/map_neighbours");
BPF_TABLE_PINNED("hash", struct neighbour_key, u32, wanted, 4096, PIN "/map_wanted");
BPF_TABLE_PINNED("percpu_array", u32, u64, stats, ZTUN_EXIT_COUNT, PIN "/map_stats");
/* What each processor has passed on last. */
BPF_TABLE_PINNED("percpu_array", u32, struct seen, seen, 1, PIN "/map_seen");
/* A lookup in a sockmap answers a referenced socket: release it. (BPF_SOCKMAP has no lookup in bcc.) */
BPF_TABLE_PINNED("sockmap", int, u64, socks, SLOTS, PIN "/map_socks");
/* Not allocated ahead, as owners. */
BPF_TABLE_PINNED("hash", u32, struct opening, openings, 8192, PIN "/map_openings", BPF_F_NO_PREALLOC);
/* The latest end of all openings; 0: there was none. */
BPF_TABLE_PINNED("array", u32, u64, open_until, 1, PIN "/map_open_until");
BPF_TABLE_PINNED("hash", u32, struct pod_rates, rates, 8192, PIN "/map_rates");
/* LRU: addresses are anybody's to make up, and whoever is forgotten begins anew. */
BPF_TABLE_PINNED("lru_hash", struct stranger, u64, strangers, 16384, PIN "/map_strangers");
/* BPF_F_MMAPABLE: workers, who have no right to ask for a change of a map, write into its memory. */
BPF_TABLE_PINNED("array", u32, struct member, members, MEMBERS, PIN "/map_members", 1 << 10);
/* Index: slot * OWNERS_MAX + owner. As socks, but for an owner's share of the connections each. */
BPF_TABLE_PINNED("sockmap", int, u64, takers, SLOTS * OWNERS_MAX, PIN "/map_takers");
/* Whose turn it is, of the owners: by a hash of slot and both addresses, and pairs that meet there share it. */
BPF_TABLE_PINNED("array", u32, u32, turns, TURNS, PIN "/map_turns");
/* Not allocated ahead: that is the only kind of trie there is. */
BPF_TABLE_PINNED("hash", struct addr16, struct prefiltered, prefiltered, 16384, PIN "/map_prefiltered");
BPF_TABLE_PINNED("lpm_trie", struct denial_key, struct denial, denials, 65536, PIN "/map_denials", BPF_F_NO_PREALLOC);
/* What the rings in `rings` are like; this one is nobody's. User space makes those, one for each owner. */
BPF_RINGBUF_OUTPUT(ring_like, 1);
BPF_TABLE_PINNED("array_of_maps$ring_like", int, int, rings, OWNERS_MAX, PIN "/map_rings");
/* SYNs that ended here because nobody served. LRU: a pod may send as many as it likes. */
BPF_TABLE_PINNED("lru_hash", struct flow_key, struct held_syn, waiting, 2048, PIN "/map_waiting");
/* Where such an entry is put together: the stack has no room for it. */
BPF_TABLE_PINNED("percpu_array", u32, struct held_syn, drafts, 1, PIN "/map_drafts");
/* Whom the programs tell of packets, and of which; BPF_F_MMAPABLE: so the end is put off without touching what they count. */
BPF_TABLE_PINNED("array", u32, struct trace_filter, tracing, 1, PIN "/map_tracing", 1 << 10);
/* The ring of whoever traces; empty where nobody does. */
BPF_TABLE_PINNED("array_of_maps$ring_like", int, int, trace_ring, 1, PIN "/map_trace_ring");

#endif
