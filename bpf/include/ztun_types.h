/* The structs, flags and exits that user space shares with the programs.
 *
 * redirect/layout.py mirrors this file; tests/packets/test_layout.py holds the two against each other,
 * and a change here changes LAYOUT_HASH, so that no program ever sees a map of another layout.
 * Suffix _be: network byte order. Addresses have 16 bytes, IPv4 as ::ffff:a.b.c.d. */
#ifndef ZTUN_TYPES_H
#define ZTUN_TYPES_H

struct addr16 {
    u8 bytes[16];
} __attribute__((aligned(8))); /* compared as two u64 */

/* pods: address -> where the pod is attached, how large its packets may be, and the MACs of frames with this address
 * there: its next hop's, its own, its next hop's again. So the first 12 bytes head a frame in the pod's name, the last
 * 12 one into the pod. */
struct pod_entry {
    u32 flags;
    u32 ifindex;
    u32 identity;
    u16 mtu_bytes; /* the largest IP packet in the pod's name */
    u16 mss_bytes; /* the largest MSS in a SYN from or to the pod */
    u32 bridge_ifindex; /* 0: nobody but the node is on the pod's link */
    u8 macs[18];
    u16 reserved;
};
_Static_assert(sizeof(struct pod_entry) == 40, "pod_entry");

/* ifaces: ifindex of a pod's host veth -> whose it is */
struct iface_entry {
    u32 flags;
    u32 learnt_until_s; /* with LEARN: then it is closed, in s of the clock that goes on while the machine is suspended */
    struct addr16 addr4;
    struct addr16 addr6;
    /* of a pod on a bridge: */
    struct addr16 mask4; /* which bits of its address all have that it reaches without a gateway */
    struct addr16 mask6;
    struct addr16 gateway4; /* zero: there is none, or it is this node */
    struct addr16 gateway6;
    u32 bridge_ifindex;
    u8 bridge_mac[6];
    u8 mac[6]; /* of every pod: its own. Zero where it is not known, and in entries of earlier layouts */
};
_Static_assert(sizeof(struct iface_entry) == 120, "iface_entry");

/* owners: whose a captured interface is, for the user space that comes after; no program reads it */
struct owner {
    char text[384];
};
_Static_assert(sizeof(struct owner) == 384, "owner");

/* neighbours, wanted: an address on the link of the pod behind a host veth */
struct neighbour_key {
    u32 ifindex;
    u32 reserved;
    struct addr16 address;
};
_Static_assert(sizeof(struct neighbour_key) == 24, "neighbour_key");

struct neighbour {
    u8 mac[6];
    u8 is_permanent; /* somebody set it in the pod: no ARP or neighbour discovery changes it */
    u8 is_used;      /* since user space last looked */
};
_Static_assert(sizeof(struct neighbour) == 8, "neighbour");

/* conf: the two private namespaces as the host sees them */
struct conf_entry {
    u32 pod_side_ifindex;
    u32 net_side_ifindex;
    u32 pod_side_nsid;
    u32 net_side_nsid;
    u8 net_side_mac[6];
    u8 is_dns_open;     /* captured DNS over UDP goes on to its destination while nobody serves */
    u8 owners;          /* of rings (0: no SYN is held) */
    u32 allowed_encapsulations; /* bits by the order of ZTUN_ENCAPSULATIONS, then ZTUN_UDP_ENCAPSULATIONS */
    u8 takers;          /* owners of listeners, over which new connections are spread (0: their group decides) */
    u8 is_plaintext_by_ports; /* the owner of plaintext connections is chosen by addresses and ports, not by turns */
    u8 reserved[2];
    u32 stranger_every_ns; /* on average, between two SYNs of a stranger to a pod's tunnel port (0: no limit) */
    u32 stranger_burst;    /* and so many at once */
    u32 choice_key;        /* of the choice by addresses and ports: nobody outside knows whom a port leads to */
    u64 host_cgroup; /* whose connections from this host to captured pods pass: a control group's (0: everybody's) */
};
_Static_assert(sizeof(struct conf_entry) == 56, "conf_entry");

/* IP protocols that carry packets of others, TCP among them, past the capture. X(name, number) */
#define ZTUN_ENCAPSULATIONS(X)                                                                                     \
    X(ipip, 4)                                                                                                     \
    X(sit, 41) /* IPv6 in IPv4 (6in4), and in IPv6 */                                                              \
    X(gre, 47)                                                                                                     \
    X(esp, 50)                                                                                                     \
    X(ah, 51)                                                                                                      \
    X(mobile, 55) /* minimal encapsulation, RFC 2004 */                                                            \
    X(ipip94, 94)                                                                                                  \
    X(etherip, 97)                                                                                                 \
    X(encap, 98) /* RFC 1241 */                                                                                    \
    X(ipcomp, 108)                                                                                                 \
    X(l2tp, 115)                                                                                                   \
    X(mpls, 137)                                                                                                   \
    X(ethernet, 143)
/* The same over UDP, by the port that it is sent to. Y(name, port, another port of it) */
#define ZTUN_UDP_ENCAPSULATIONS(Y)                                                                                 \
    Y(vxlan, 4789, 8472) /* as assigned, and Linux's own default */                                                \
    Y(vxlan_gpe, 4790, 4790)                                                                                       \
    Y(geneve, 6081, 6081)                                                                                          \
    Y(gue, 6080, 6080)                                                                                             \
    Y(gre_udp, 4754, 4755)  /* RFC 8086, the other with DTLS */                                                    \
    Y(mpls_udp, 6635, 6636) /* RFC 7510 */                                                                         \
    Y(l2tp_udp, 1701, 1701)                                                                                        \
    Y(teredo, 3544, 3544)                                                                                          \
    Y(esp_udp, 4500, 4500) /* RFC 3948 */
#define ZTUN_ENCAPSULATION_NAME(name, ...) ENCAPSULATION_##name,
enum ztun_encapsulation {
    ZTUN_ENCAPSULATIONS(ZTUN_ENCAPSULATION_NAME) ZTUN_UDP_ENCAPSULATIONS(ZTUN_ENCAPSULATION_NAME) ENCAPSULATIONS
};

/* hostflows, passthru, waiting: one direction of a connection as a hook sees it */
struct flow_key {
    struct addr16 saddr_be;
    struct addr16 daddr_be;
    u16 sport_be;
    u16 dport_be;
    u8 protocol;
    u8 hook;
    u8 reserved[2];
};
_Static_assert(sizeof(struct flow_key) == 40, "flow_key");

/* hostflows: the host veth by which this host's SYN left, and when. Of the size that earlier layouts have, a u64 of
 * nanoseconds: maps are shared with them, and an interface that is read out of one matches none. */
struct host_flow {
    u32 ifindex; /* 0: somebody else's SYN, to a pod whose inbound connections go past the proxy */
    u32 at_s; /* of the monotonic clock */
};
_Static_assert(sizeof(struct host_flow) == 8, "host_flow");

/* captures: ifindex of a pod's host veth -> its SYNs handed to the proxy, retransmitted ones too */
struct capture_count {
    u64 outbound;
    u64 inbound;
};
_Static_assert(sizeof(struct capture_count) == 16, "capture_count");

/* rates: ifindex of a pod's host veth -> until when its SYNs have used up what they may be held, and its DNS over UDP what
 * the proxy takes of it (GCRA) */
struct pod_rates {
    u64 outbound_due_ns;
    u64 inbound_due_ns;
    u64 dns_due_ns;
};
_Static_assert(sizeof(struct pod_rates) == 24, "pod_rates");

/* openings: ifindex of a pod's host veth (OF_NODE: every pod) -> until when its connections go past the proxy. Times in ns of
 * the clock that goes on while the machine is suspended. */
struct opening {
    u64 until_ns;
    u64 since_ns;
    struct addr16 addr4; /* of the pod, as in ifaces: another pod under this number is not open */
    struct addr16 addr6;
    char note[464]; /* who opened it, and his reason: no program reads it */
};
_Static_assert(sizeof(struct opening) == 512, "opening");

/* strangers: who opens connections to the tunnel port of the pod behind a host veth -> until when it has used up its rate,
 * in ns of the monotonic clock (GCRA) */
struct stranger {
    struct addr16 address;
    u32 ifindex;
    u32 reserved;
};
_Static_assert(sizeof(struct stranger) == 24, "stranger");

/* members: an address from where somebody has proven who it is, and how long that counts. It lies at one of two places
 * that follow from a hash of it; workers write it (agent/net/member_table.py). */
struct member {
    struct addr16 address;
    u64 until_ns; /* of the monotonic clock */
};
_Static_assert(sizeof(struct member) == 24, "member");

/* prefiltered: address of a pod -> which set of `denials` says who is denied there, as long as the address is behind this
 * host veth; and until when its denied SYNs have used up what may go to the proxy (GCRA) */
struct prefiltered {
    u32 ifindex;
    u32 set;
    u64 samples_due_ns; /* of the monotonic clock */
};
_Static_assert(sizeof(struct prefiltered) == 16, "prefiltered");

/* denials: set, port of the destination and range of the source -> whether it is denied; the longest range counts. */
struct denial_key {
    u32 prefix_bits; /* of all that follows */
    u32 set;
    u16 port_be;
    u8 reserved[6];
    struct addr16 saddr_be;
};
_Static_assert(sizeof(struct denial_key) == 32, "denial_key");
struct denial {
    u8 is_denied;
    u8 reserved[7];
    u64 packets; /* that were answered by it */
};
_Static_assert(sizeof(struct denial) == 16, "denial");

/* rings: a SYN that waits until the proxy has reached its destination; waiting: one that waits until somebody serves.
 * Copied are the headers only. */
#define HELD_FRAME_MAX 152
struct held_syn {
    u64 at_ns; /* of the monotonic clock */
    u32 ifindex;
    u8 hook;
    u8 l4_offset;
    u8 frame_bytes;
    u8 reserved;
    u8 frame[152];
};
_Static_assert(sizeof(struct held_syn) == 168, "held_syn");
_Static_assert(sizeof(((struct held_syn *)0)->frame) == HELD_FRAME_MAX, "held_syn.frame");

/* tracing: which packets are told to whoever traces. An address or port of zero stands for any; a packet matches in either
 * direction, and all that crosses the interface does where one is named. */
struct trace_filter {
    u64 until_ns; /* as in opening. 0: nobody traces */
    u64 due_ns;   /* until when events have used up their rate (GCRA) */
    u64 lost;     /* events that were not told: there was no room, or they came too fast */
    struct addr16 own; /* of one end, either of these */
    struct addr16 own_too;
    struct addr16 far; /* of the other end */
    u16 own_port_be;
    u16 far_port_be;
    u32 ifindex;
    u8 is_ends_only; /* only packets that end in a program, dropped or denied */
    u8 reserved[7];
};
_Static_assert(sizeof(struct trace_filter) == 88, "trace_filter");

/* trace_ring: a packet that left a program */
struct trace_event {
    u64 at_ns; /* of the clock that goes on while the machine is suspended */
    u32 ifindex; /* of the device at which the program runs. 0: it is a lookup */
    u32 bytes; /* with the Ethernet header */
    u16 reason; /* index in `stats` */
    u16 ether_be; /* EtherType, as skb->protocol has it */
    u16 sport_be;
    u16 dport_be;
    u8 protocol; /* 0: neither IPv4 nor IPv6, or a header that cannot be read */
    u8 tcp_flags;
    u8 reserved[6];
    struct addr16 saddr_be;
    struct addr16 daddr_be;
};
_Static_assert(sizeof(struct trace_event) == 64, "trace_event");

/* seen: the packet that `from_pod` or `to_pod` passed on last, on this processor. Shared with earlier and later layouts, whose
 * guards ask it too: of this shape for good. */
struct seen {
    u64 packet; /* where it lies, 0 once its guard has asked */
    u32 ifindex;
    u32 hook;
};
_Static_assert(sizeof(struct seen) == 16, "seen");

/* LEARN: the pod is about to be captured, and all passes as it is, for a time; connections that begin are noted in passthru.
 * QUEUED: what is delivered goes through the queueing discipline of the host veth (a bandwidth limit).
 * HONEST: SYNs from and to the pod are held until the proxy has reached their destination.
 * BYPASS: connections to the pod go past the proxy, but for those to 15008.
 * DNS: what the pod sends to port 53 goes to the proxy.
 * GUARDED: a guard drops what neither from_pod nor to_pod has seen. */
enum {
    FLAG_ENROLLED = 1,
    FLAG_DRAIN = 4,
    FLAG_QUEUED = 8,
    FLAG_HONEST = 16,
    FLAG_BYPASS = 32,
    FLAG_DNS = 64,
    FLAG_LEARN = 128,
    FLAG_GUARDED = 256
};
/* So long passes what began while its pod was learnt, unless user space says until when. */
#define LEARNT_NS 10000000000ULL
/* HOOK_OPEN, in hostflows: a connection past the proxy while its pod is open, as the pod sends it. */
enum { HOOK_FROM_POD = 0, HOOK_TO_POD = 1, HOOK_OPEN = 2 };
enum { OF_NODE = 0 }; /* no interface has this number */
enum { SLOT_OUTBOUND = 0, SLOT_HBONE = 1, SLOT_PLAINTEXT = 2, SLOTS = 3 };
enum { OWNERS_MAX = 64 };
enum { TURNS = 4096 };
enum { MEMBERS = 16384 };
enum { HBONE_PORT = 15008, DNS_PORT = 53 };

/* The one mark, 12 bits: set by from_net_side, cleared by from_pod a moment later on the same device. */
#define MARK_MASK 0xfff
#define MARK_PROXY 0x1c6

/* Every exit of every program, counted. X(program, NAME, is_drop); order is the index in `stats`. */
#define ZTUN_EXITS(X)                                                                                              \
    X(from_pod, PROXY, 0)            /* the proxy's own packet, on its way into the host */                        \
    X(from_pod, UNKNOWN_IFACE, 0)    /* not a pod's interface */                                                   \
    X(from_pod, ARP, 0)              /* ARP */                                                                     \
    X(from_pod, NOT_IP_PASS, 0)      /* neither IP nor ARP, pod not enrolled */                                    \
    X(from_pod, NOT_IP_DROP, 1)      /* neither IP nor ARP, enrolled pod */                                        \
    X(from_pod, SPOOFED, 1)          /* source address is not the pod's */                                         \
    X(from_pod, CLOSED, 1)           /* closed off: not served, so that no address is its own */                   \
    X(from_pod, NOT_ENROLLED, 0)     /* pod not enrolled */                                                        \
    X(from_pod, ICMP_TO_PROXY, 0)    /* ICMP error about an application dial of the proxy */                       \
    X(from_pod, ENCAPSULATED, 1)     /* a protocol that carries packets of others */                               \
    X(from_pod, OTHER_PROTOCOL, 0)   /* neither TCP nor UDP */                                                     \
    X(from_pod, DRAIN_TO_PROXY, 0)   /* draining, the proxy still has the connection */                            \
    X(from_pod, DRAIN_PASS, 0)       /* draining, not the proxy's */                                               \
    X(from_pod, UNCLASSIFIABLE, 1)   /* TCP whose header cannot be seen: fragment, hidden header, truncated */     \
    X(from_pod, DNS_TO_PROXY, 0)     /* DNS over UDP */                                                            \
    X(from_pod, UDP_PASS, 0)         /* other UDP */                                                               \
    X(from_pod, NO_LISTENER, 1)      /* new connection, nobody serves 15001 */                                     \
    X(from_pod, SYN_TO_PROXY, 0)     /* new connection, captured */                                                \
    X(from_pod, SYN_HELD, 0)         /* the same, of a pod whose connects are honest: copied for the proxy, ends here */ \
    X(from_pod, SYN_AGAIN, 0)        /* of a connection that the proxy has accepted, or is accepting */            \
    X(from_pod, SYN_UNHELD, 0)       /* captured at once: the pod has opened too many */                           \
    X(from_pod, SYN_RING_FULL, 0)    /* captured at once: no ring, or no room in it */                             \
    X(from_pod, GRANDFATHERED, 0)    /* connection kept from before enrolment */                                   \
    X(from_pod, ANSWER_TO_PROXY, 0)  /* answer to a dial of the proxy, tuple also known to the host */             \
    X(from_pod, HOST_FLOW, 0)        /* answer to a connection this host made */                                   \
    X(from_pod, HOST_OPENED, 0)      /* answer to a host socket older than the agent */                            \
    X(from_pod, TO_PROXY, 0)         /* everything else of a captured connection */                                \
    X(from_pod, NO_CONF, 1)          /* the agent has not finished its plumbing */                                 \
    X(from_pod, CLOSED_HOST_FLOW, 0) /* closed off: answer to a connection that this host made by this interface */ \
    X(from_pod, CLOSED_NEIGHBOUR, 0) /* closed off: neighbour discovery, which is IPv6's ARP */                    \
    X(from_pod, BYPASSED, 0)         /* answer in a connection that went past the proxy on its way in */           \
    X(from_pod, DNS_UNSERVED, 1)     /* captured DNS over UDP, nobody serves 15001 */                              \
    X(from_pod, DNS_OPEN, 0)         /* the same, where it may go on then */                                       \
    X(from_pod, UDP_ENCAPSULATED, 1) /* to a port where UDP carries packets of others */                           \
    X(from_pod, DNS_TOO_FAST, 1)     /* captured DNS over UDP, more than the proxy takes of one pod */             \
    X(from_pod, MAC_SPOOFED, 1)      /* on a bridge: the frame's source MAC is not the pod's */                    \
    X(from_pod, ARP_SPOOFED, 1)      /* ARP for an address that is not the pod's, or that nobody understands */    \
    X(from_pod, ND_SPOOFED, 1)       /* neighbour discovery for an address that is not the pod's */                \
    X(from_pod, ROUTER_SPOOFED, 1)   /* router advertisement or ICMP redirect: a pod is no router */               \
    X(from_pod, OPEN_SYN, 0)         /* new connection of a pod that is open: past the proxy, noted */             \
    X(from_pod, OPEN, 0)             /* later packets of it, and answers in one that was opened to the pod */      \
    X(from_pod, OPEN_DNS, 0)         /* captured DNS over UDP, of a pod that is open */                            \
    X(from_pod, BYPASS_OVER, 1)      /* answer in such a connection, captured again: both ends are about to be reset */ \
    X(from_pod, LEARNING, 0)         /* of a pod that is about to be captured: as it is, a SYN is noted */         \
    X(from_pod, LEARN_OVER, 1)       /* the same, but nobody captured it in time: closed off, as in CLOSED */      \
    X(to_pod, UNKNOWN_IFACE, 0)                                                                                    \
    X(to_pod, FROM_PROXY, 0)         /* what the proxy delivers, on its way through the queue of the interface */  \
    X(to_pod, NOT_IP, 0)                                                                                           \
    X(to_pod, UDP_PASS, 0)                                                                                         \
    X(to_pod, ICMP_TO_PROXY, 0)      /* ICMP error about a dial made in the pod's name */                          \
    X(to_pod, ICMP_REDIRECT, 1)      /* ICMP redirect meant for an enrolled pod */                                 \
    X(to_pod, ENCAPSULATED, 1)                                                                                     \
    X(to_pod, OTHER_PROTOCOL, 0)                                                                                   \
    X(to_pod, UNCLASSIFIABLE, 1)     /* to an enrolled pod */                                                      \
    X(to_pod, UNCLASSIFIABLE_PASS, 0)                                                                              \
    X(to_pod, HOST_TO_PROXY, 0)      /* a service of this host answers the proxy */                                \
    X(to_pod, HOST_SYN, 0)           /* this host opens a connection to the pod: noted */                          \
    X(to_pod, HOST_PASS, 0)          /* later packets of it */                                                     \
    X(to_pod, DRAIN_TO_PROXY, 0)                                                                                   \
    X(to_pod, DRAIN_PASS, 0)                                                                                       \
    X(to_pod, NOT_ENROLLED, 0)                                                                                     \
    X(to_pod, NO_LISTENER, 1)        /* new connection, nobody serves 15008 or 15006 */                            \
    X(to_pod, DENIED, 0)             /* new connection that policy denies, answered here */                        \
    X(to_pod, SYN_TO_PROXY, 0)                                                                                     \
    X(to_pod, SYN_HELD, 0)           /* not to 15008 */                                                            \
    X(to_pod, SYN_AGAIN, 0)                                                                                        \
    X(to_pod, SYN_UNHELD, 0)                                                                                       \
    X(to_pod, SYN_RING_FULL, 0)                                                                                    \
    X(to_pod, STRANGER_TOO_FAST, 1)  /* to 15008, of an address that has not proven itself and opens too many */   \
    X(to_pod, GRANDFATHERED, 0)                                                                                    \
    X(to_pod, TO_PROXY, 0)                                                                                         \
    X(to_pod, NO_CONF, 1)                                                                                          \
    X(to_pod, NO_CONF_PASS, 0)       /* the same, pod not enrolled */                                              \
    X(to_pod, BYPASS_SYN, 0)         /* new connection to a pod whose inbound ones go past the proxy: noted */     \
    X(to_pod, BYPASSED, 0)           /* later packets of it */                                                     \
    X(to_pod, DNS_TO_PROXY, 0)       /* a name server answers what the proxy asked in the pod's name */            \
    X(to_pod, HOST_SYN_TO_PROXY, 0)  /* new connection of this host, of one whose connections do not pass */       \
    X(to_pod, OPEN_SYN, 0)                                                                                         \
    X(to_pod, OPEN, 0)                                                                                             \
    X(to_pod, LEARNING, 0)                                                                                         \
    X(from_pod_side, NOT_TCP_UDP, 1)                                                                               \
    X(from_pod_side, NOT_POD, 1)     /* the destination is no captured pod */                                      \
    X(from_pod_side, TO_QUEUE, 0)    /* to the pod, through the queue of its interface */                          \
    X(from_pod_side, TO_POD, 0)                                                                                    \
    X(from_pod_side, SYN_BACK, 0)    /* a held SYN that is let in, back where it came from */                      \
    X(from_pod_side, SYN_BACK_NOT_POD, 1) /* the same, but no enrolled pod has sent it */                          \
    X(from_net_side, NOT_TCP_UDP, 1)                                                                               \
    X(from_net_side, NOT_POD, 1)     /* the source is no captured pod */                                           \
    X(from_net_side, TOO_BIG, 1)     /* larger than the pod's MTU: it has become smaller meanwhile */              \
    X(from_net_side, NO_IFACE, 1)    /* its interface is unknown */                                                \
    X(from_net_side, NO_NEXT_HOP, 1) /* the pod has no gateway, and this is no neighbour that it knows */          \
    X(from_net_side, TO_NEIGHBOUR, 0) /* as if the pod had sent it, to a neighbour on its bridge */                \
    X(from_net_side, TO_HOST, 0)     /* as if the pod had sent it, to its next hop */                              \
    X(from_net_side, SYN_BACK, 0)                                                                                  \
    X(from_net_side, SYN_BACK_NOT_POD, 1) /* it was sent to no enrolled pod */                                     \
    X(lookup_pod_side, UDP_DNS, 0)                                                                                 \
    X(lookup_pod_side, UDP_DROP, 1)                                                                                \
    X(lookup_pod_side, NO_LISTENER, 1)                                                                             \
    X(lookup_pod_side, UNFIT_LISTENER, 1) /* of another address family, or no listener at all */                   \
    X(lookup_pod_side, PICKED, 0)                                                                                  \
    X(lookup_net_side, UDP_DROP, 1)                                                                                \
    X(lookup_net_side, NO_LISTENER, 1)                                                                             \
    X(lookup_net_side, UNFIT_LISTENER, 1)                                                                          \
    X(lookup_net_side, PICKED, 0)                                                                                  \
    X(guard_from_pod, SEEN, 0)    /* passed on by from_pod, and so by its guard */                                 \
    X(guard_from_pod, UNGUARDED, 0)    /* no captured pod is at the interface */                                   \
    X(guard_from_pod, UNSEEN, 1)    /* from_pod has not seen it: it is not attached (any more) */                  \
    X(guard_to_pod, SEEN, 0)                                                                                       \
    X(guard_to_pod, UNGUARDED, 0)                                                                                  \
    X(guard_to_pod, UNSEEN, 1)                                                                                     \
    X(from_pod, GRANDFATHER_END, 0)  /* not an exit: a kept tuple was used again, seen by this hook */             \
    X(to_pod, GRANDFATHER_END, 0)    /* the same, by the other */

#define ZTUN_EXIT_NAME(program, name, is_drop) EXIT_##program##_##name,
enum ztun_exit { ZTUN_EXITS(ZTUN_EXIT_NAME) ZTUN_EXIT_COUNT };

#endif
