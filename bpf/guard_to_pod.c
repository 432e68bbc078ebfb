/* clsact egress of a pod's host veth, behind the tcx link of to_pod: drops what that one has not passed on.
 * `tc filter add dev VETH egress prio 1 handle 0x7a76 bpf da object-pinned .../prog_guard_to_pod` */
#include "ztun.h"

int guard_to_pod(struct __sk_buff *skb) {
    if (was_passed_on(skb, HOOK_TO_POD))
        PASS_UNREAD(EXIT_guard_to_pod_SEEN);
    if (!is_guarded(skb))
        PASS_UNREAD(EXIT_guard_to_pod_UNGUARDED);
    return leave(skb, by(EXIT_guard_to_pod_UNSEEN, TC_ACT_SHOT));
}
