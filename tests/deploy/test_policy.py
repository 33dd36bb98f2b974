"""The Pod Security Standard `restricted`, and what else a reviewer of manifests asks for, each under its name."""

import pytest
from helm_chart import SETS, Resource, container, pod, render

# What `restricted` allows: no path of the node, no disk of a cloud by its name.
VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}


@pytest.fixture(params=SETS)
def resources(request) -> list[Resource]:
    return render(request.param)


def test_host_namespaces(resources):
    """Baseline: no network, processes or IPC of the node."""
    spec = pod(resources)["spec"]
    assert not any(spec.get(name) for name in ("hostNetwork", "hostPID", "hostIPC"))
    assert not any("hostPort" in port for port in container(resources)["ports"])


def test_privilege(resources):
    """Baseline and restricted: no privilege, none to be gained, no capability, the default /proc, no sysctl."""
    context = container(resources)["securityContext"]
    assert not context.get("privileged")
    assert context["allowPrivilegeEscalation"] is False
    assert context["capabilities"] == {"drop": ["ALL"]}
    assert "procMount" not in context
    assert "sysctls" not in pod(resources)["spec"]["securityContext"]


def test_user(resources):
    """Restricted: not root, whatever the image says."""
    context = pod(resources)["spec"]["securityContext"]
    assert context["runAsNonRoot"] is True
    assert context["runAsUser"] >= 10000  # no user of the node has it
    assert not {"runAsUser", "runAsNonRoot"} & container(resources)["securityContext"].keys()


def test_seccomp(resources):
    """Restricted: the runtime's filter of system calls."""
    assert pod(resources)["spec"]["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}


def test_volumes(resources):
    """Restricted: of the allowed types, and a scratch volume cannot fill the node's disk."""
    for volume in pod(resources)["spec"]["volumes"]:
        assert volume.keys() - {"name"} <= VOLUMES
        assert "sizeLimit" in volume.get("emptyDir", {"sizeLimit": None})


def test_file_system(resources):
    """Nothing can be written but to /tmp."""
    assert container(resources)["securityContext"]["readOnlyRootFilesystem"] is True
    assert [each["mountPath"] for each in container(resources)["volumeMounts"] if not each.get("readOnly")] == ["/tmp"]  # noqa: S108


def test_no_access_to_the_cluster(resources):
    """The server does not speak to Kubernetes: no token, no variables of neighbours' Services."""
    spec = pod(resources)["spec"]
    assert spec["automountServiceAccountToken"] is False
    assert spec["enableServiceLinks"] is False


def test_resources(resources):
    """The scheduler is told what a pod needs.

    Exception: no limit of CPU, which would throttle in the midst of a request; the threads are bounded by the request.
    """
    assert "cpu" in container(resources)["resources"]["requests"]
    assert "cpu" not in (container(resources)["resources"].get("limits") or {})


def test_memory_is_bounded():
    """Where the defaults hold; a set of values may drop the limit (`minimal` does)."""
    assert container(render())["resources"].keys() == {"requests", "limits"}
    assert "memory" in container(render())["resources"]["limits"]


def test_probes(resources):
    """All three, and a pod is killed later than it is taken out of service."""
    probes = container(resources)
    assert probes["startupProbe"]["httpGet"]["path"] == probes["readinessProbe"]["httpGet"]["path"] == "/readyz"
    assert probes["livenessProbe"]["httpGet"]["path"] == "/livez"

    def seconds(probe: str) -> int:
        return probes[probe].get("periodSeconds", 10) * probes[probe].get("failureThreshold", 3)

    assert seconds("readinessProbe") < seconds("livenessProbe")


def test_image(resources):
    """Named by a version or a digest.

    Exception: no digest by default, since everyone builds their own image; `image.digest` takes it.
    """
    image = container(resources)["image"]
    assert not image.endswith(":latest")
    assert ":" in image.rpartition("/")[2]


def test_spread_and_disruption():
    """By default, losing a node or a zone, or draining one, leaves replicas."""
    default = render()
    keys = {each["topologyKey"] for each in pod(default)["spec"]["topologySpreadConstraints"]}
    assert keys == {"topology.kubernetes.io/zone", "kubernetes.io/hostname"}
    assert {"PodDisruptionBudget", "NetworkPolicy"} <= {each["kind"] for each in default}


def test_network():
    """By default nothing leaves a pod, and only the ports of the service are open."""
    (policy,) = (each["spec"] for each in render() if each["kind"] == "NetworkPolicy")
    assert (policy["policyTypes"], policy["egress"]) == (["Ingress", "Egress"], [])
    assert [port["port"] for rule in policy["ingress"] for port in rule["ports"]] == ["http", "grpc", "admin"]
