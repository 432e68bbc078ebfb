"""Names of control groups: of both drivers, of every runtime, of nodes that are containers themselves."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.enroll.pod_cgroup import plain, pods_of

UID = "3f6c2d1e-8a4b-4c5d-9e0f-1a2b3c4d5e6f"
OTHER = "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee"
LOW, FLAT = UID.replace("-", "_"), UID.replace("-", "")
CID = "9d0c2b" * 10 + "abcd"
SYSTEMD = f"kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{LOW}.slice"

FORMS = {
    "v2 cgroupfs": f"0::/kubepods/burstable/pod{UID}/{CID}\n",
    "v2 cgroupfs guaranteed": f"0::/kubepods/pod{UID}/{CID}\n",
    "v2 systemd containerd": f"0::/{SYSTEMD}/cri-containerd-{CID}.scope\n",
    "v2 systemd cri-o": f"0::/{SYSTEMD}/crio-{CID}.scope\n",
    "v2 systemd cri-o container": f"0::/{SYSTEMD}/crio-{CID}.scope/container\n",
    "v2 systemd cri-o conmon": f"0::/{SYSTEMD}/crio-conmon-{CID}.scope\n",
    "v2 systemd docker": f"0::/{SYSTEMD}/docker-{CID}.scope\n",
    "v2 systemd guaranteed": f"0::/kubepods.slice/kubepods-pod{LOW}.slice/cri-containerd-{CID}.scope\n",
    "v2 containerd without systemd": f"0::/system.slice/cd.service/kubepods-pod{LOW}.slice:cri-containerd:{LOW}\n",
    "v2 relative to the reader": f"0::/../../pod{UID}/{CID}\n",
    "v2 relative, systemd": f"0::/../../kubepods-burstable-pod{LOW}.slice/cri-containerd-{CID}.scope\n",
    "v2 the pod's own group": f"0::/kubepods/besteffort/pod{UID}\n",
    "v2 a container's own groups": f"0::/kubepods/burstable/pod{UID}/{CID}/system.slice/sshd.service\n",
    "v2 another root": f"0::/km-n1/kubepods/besteffort/pod{UID}/{CID}\n",
    "v2 kind": f"0::/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod{LOW}.slice/cri-containerd-{CID}.scope\n",
    "v1 kind in docker": f"11:memory:/docker/{CID}/kubelet/kubepods/burstable/pod{UID}/{CID}\n",
    "v1": f"12:cpu,cpuacct:/kubepods/pod{UID}/x\n3:memory:/kubepods/pod{UID}/x\n1:name=systemd:/kubepods/pod{UID}/x\n",
    "v1 some controllers": f"12:pids:/system.slice/x.service\n3:memory:/kubepods/burstable/pod{UID}/{CID}\n",
    "hybrid": f"5:memory:/kubepods/burstable/pod{UID}/{CID}\n0::/kubepods/burstable/pod{UID}/{CID}\n",
    "hybrid, unified at the root": f"5:memory:/kubepods/burstable/pod{UID}/{CID}\n0::/\n",
    "static pod": f"0::/kubepods/burstable/pod{FLAT}/{CID}\n",
}


@pytest.mark.parametrize("text", FORMS.values(), ids=FORMS)
def test_the_pod_of_each_form(text: str) -> None:
    assert pods_of(text) == (FLAT,)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0::/\n",
        "0::/system.slice/kubelet.service\n",
        f"0::/docker/{CID}\n",
        f"0::/system.slice/docker-{CID}.scope\n",
        f"0::/system.slice/crio-{CID}.scope\n",
        f"0::/kubepods/burstable/pod{UID[:-1]}/{CID}\n",
        f"0::/kubepods/burstable/pod{UID}0/{CID}\n",
        f"0::/user.slice/tripod{UID}\n",
        "no colons\n",
        f"5:memory:/kubepods/pod{UID}/x\n0::/kubepods/pod{OTHER}/x\n",
    ],
    ids=[
        "empty",
        "root",
        "kubelet",
        "docker",
        "docker-scope",
        "crio",
        "short",
        "long",
        "word",
        "garbage",
        "at-odds",
    ],
)
def test_what_is_in_no_pod(text: str) -> None:
    assert pods_of(text) == ()


def test_of_pods_in_pods_the_outermost_comes_first() -> None:
    nested = f"0::/kubepods/pod{UID}/{CID}/kubelet/kubepods/pod{OTHER}/{CID}\n"
    assert pods_of(nested) == (FLAT, OTHER.replace("-", ""))


def test_uids_compare_without_dashes_and_nothing_else_is_one() -> None:
    assert plain(UID) == plain(UID.upper()) == plain(FLAT) == FLAT
    for text in ("", "web", UID + "0", UID.replace("3", "x")):
        with pytest.raises(ValueError, match="no uid"):
            plain(text)


@given(st.text())
def test_any_text_is_read(text: str) -> None:
    assert isinstance(pods_of(text), tuple)
