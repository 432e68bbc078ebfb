"""Ways of carrying whole packets inside of others, which an enrolled pod may use only where the agent allows it.

The names of `--allow-encapsulation`, with their IP protocol numbers or ports of UDP; bpf/include/ztun_types.h has the
same.
"""

from __future__ import annotations

ENCAPSULATIONS = {
    "ipip": 4,
    "sit": 41,
    "gre": 47,
    "esp": 50,
    "ah": 51,
    "mobile": 55,
    "ipip94": 94,
    "etherip": 97,
    "encap": 98,
    "ipcomp": 108,
    "l2tp": 115,
    "mpls": 137,
    "ethernet": 143,
}
UDP_ENCAPSULATIONS = {
    "vxlan": (4789, 8472),
    "vxlan_gpe": (4790,),
    "geneve": (6081,),
    "gue": (6080,),
    "gre_udp": (4754, 4755),
    "mpls_udp": (6635, 6636),
    "l2tp_udp": (1701,),
    "teredo": (3544,),
    "esp_udp": (4500,),
}
ENCAPSULATION_NAMES = (*ENCAPSULATIONS, *UDP_ENCAPSULATIONS)
