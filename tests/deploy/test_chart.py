"""The Helm chart: what it renders is valid, says what the server does, and is what deploy/gumball.yaml holds."""

import json
import tomllib
from dataclasses import asdict, fields
from pathlib import Path

import generate
import kubernetes_validate
import pytest
import yaml
from gumball_server.settings import Settings, read_settings, unknown_variables
from helm_chart import CHART, DEPLOY, EXAMPLES, ROOT, SETS, container, environment, helm, only, pod, render
from jsonschema import Draft202012Validator

# The oldest that the chart asks for, and the newest.
KUBERNETES = ("1.30", "1.37")
PORTS = ("http", "grpc", "admin")
SCHEMAS = {path.stem: json.loads(path.read_text()) for path in (Path(__file__).parent / "schemas").glob("*.json")}
BOUNDED = [each for each in fields(Settings) if each.metadata["low"] is not None]


def assert_valid(resource: dict, version: str) -> None:
    """By the strict schema of Kubernetes, or of the project that defines the kind."""
    if schema := SCHEMAS.get(resource["kind"].lower()):
        Draft202012Validator(schema).validate(resource)
    else:
        kubernetes_validate.validate(resource, version, strict=True)


@pytest.mark.parametrize("values", SETS)
def test_helm_has_no_complaint(values):
    """Its linter, where warnings are errors."""
    chosen = ["--values", SETS[values]] if SETS[values] else []
    done = helm("lint", "--strict", CHART, *chosen)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("version", KUBERNETES)
@pytest.mark.parametrize("values", SETS)
def test_every_resource_is_valid(values, version):
    """And has no field that Kubernetes does not know."""
    resources = render(values, None, "--kube-version", version)
    assert {"Deployment", "Service"} <= {resource["kind"] for resource in resources}
    for resource in resources:
        assert_valid(resource, version)


@pytest.mark.parametrize("name", ["keda-scaledobject", "kserve-inferenceservice"])
def test_every_example_is_valid(name):
    """By the definitions of KEDA and KServe."""
    assert_valid(yaml.safe_load((EXAMPLES / f"{name}.yaml").read_text()), KUBERNETES[-1])


def test_a_field_that_does_not_exist_is_found():
    """The oracle of the tests above: for Kubernetes' kinds and for others'."""
    deployment = only(render(), "Deployment")
    deployment["spec"]["template"]["spec"]["containers"][0]["livenesProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError, match="livenesProbe"):
        assert_valid(deployment, KUBERNETES[-1])
    monitor = only(render("production"), "ServiceMonitor")
    monitor["spec"]["endpoints"][0]["intervall"] = "1s"
    assert not Draft202012Validator(SCHEMAS["servicemonitor"]).is_valid(monitor)


def test_the_manifest_is_the_chart_with_its_defaults():
    """`make manifests` makes it so."""
    kept = generate.MANIFEST.read_text()
    assert kept.startswith(generate.HEAD)
    assert [each for each in yaml.safe_load_all(kept) if each] == render()


def test_the_schema_has_the_settings_of_the_server():
    """`make manifests` makes it so."""
    assert generate.SCHEMA.read_text() == generate.schema()


def test_the_chart_is_of_the_version_of_the_project():
    """So the default image is the one of the same checkout."""
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert chart["version"] == chart["appVersion"] == project["version"]
    assert container(render())["image"] == f"gumball:{project['version']}"


@pytest.mark.parametrize("bound", ["low", "high"])
def test_every_setting_reaches_the_server(bound):
    """What the values say is what the server reads, at either end of every range."""
    said = {each.name: each.metadata[bound] if each in BOUNDED else "a text: with 'signs'" for each in fields(Settings)}
    said |= {name: {"low": 1, "high": 65535}[bound] for name in ("http_port", "grpc_port", "admin_port")}
    said |= {"device": "cpu", "grpc_engine": "aio", "log_level": "error", "trace_endpoint": "http://collector:4318"}
    variables = environment(render(values={"settings": said}))
    assert asdict(read_settings([], variables)) == said
    assert not unknown_variables(variables)


@pytest.mark.parametrize("setting", BOUNDED, ids=lambda each: each.name)
def test_an_impossible_setting_is_refused(setting):
    """By helm, before a pod finds out."""
    for value in (setting.metadata["low"] - 1, setting.metadata["high"] + 1):
        with pytest.raises(ValueError, match=setting.name):
            render(values={"settings": {setting.name: value}})


@pytest.mark.parametrize("values", [{"settings": {"nonsense": 1}}, {"replica": 2}, {"image": {"tags": "x"}}])
def test_an_unknown_value_is_refused(values):
    """A misspelt value must not be ignored."""
    with pytest.raises(ValueError, match="additional properties"):
        render(values=values)


@pytest.mark.parametrize("values", SETS)
def test_threads_follow_the_request_of_cpu(values):
    """Unless they are set: a pod must not start a thread for each core of a large node."""
    (threads,) = (each for each in container(render(values))["env"] if each["name"] == "GUMBALL_THREADS")
    assert threads["valueFrom"] == {"resourceFieldRef": {"resource": "requests.cpu", "divisor": "1"}}
    assert environment(render(values, {"settings": {"threads": 3}}))["GUMBALL_THREADS"] == "3"


@pytest.mark.parametrize("values", SETS)
def test_every_port_is_the_one_the_server_listens_on(values):
    """Container, Services, probes, network policy and annotations speak of the same ports."""
    numbers = {"http": 1234, "grpc": 2345, "admin": 3456}
    resources = render(values, {"settings": {f"{name}_port": number for name, number in numbers.items()}})
    settings = read_settings([], environment(resources))
    assert {name: getattr(settings, f"{name}_port") for name in PORTS} == numbers
    assert {each["name"]: each["containerPort"] for each in container(resources)["ports"]} == numbers
    for service in (each for each in resources if each["kind"] == "Service"):
        for port in service["spec"]["ports"]:
            assert (port["targetPort"], port["port"]) == (port["name"], numbers[port["name"]])
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container(resources)[probe]["httpGet"]["port"] == "admin"
    annotated = pod(resources)["metadata"].get("annotations") or {}
    assert annotated.get("prometheus.io/port", "3456") == "3456"


@pytest.mark.parametrize("values", SETS)
def test_every_selector_selects_the_pods(values):
    """Services, budget, policy, spread and monitor mean the pods of the Deployment."""
    resources = render(values)
    labels = pod(resources)["metadata"]["labels"].items()
    selectors = [only(resources, "Deployment")["spec"]["selector"]["matchLabels"]]
    selectors += [each["spec"]["selector"] for each in resources if each["kind"] == "Service"]
    selectors += [
        each["spec"].get("selector", each["spec"].get("podSelector"))["matchLabels"]
        for each in resources
        if each["kind"] in ("PodDisruptionBudget", "NetworkPolicy")
    ]
    selectors += [each["labelSelector"]["matchLabels"] for each in pod(resources)["spec"]["topologySpreadConstraints"]]
    assert all(selector.items() <= labels for selector in selectors)


def test_prometheus_finds_one_target_a_pod():
    """Of the two Services that the monitor selects, only one has the port."""
    resources = render("production")
    monitor = only(resources, "ServiceMonitor")["spec"]
    services = [
        each
        for each in resources
        if each["kind"] == "Service"
        and monitor["selector"]["matchLabels"].items() <= each["metadata"]["labels"].items()
    ]
    (endpoint,) = monitor["endpoints"]
    ports = [port["name"] for each in services for port in each["spec"]["ports"]]
    assert ports.count(endpoint["port"]) == 1
    assert services[0]["metadata"]["labels"][monitor["jobLabel"]] == "gumball"


@pytest.mark.parametrize("values", SETS)
def test_a_pod_has_time_to_drain(values):
    """Kubernetes kills it only after it has had what its settings say, and some more."""
    resources = render(values, {"settings": {"grace_seconds": 7.5, "drain_seconds": 100}})
    settings = read_settings([], environment(resources))
    sleep = container(resources).get("lifecycle", {"preStop": {"sleep": {"seconds": 0}}})["preStop"]["sleep"]["seconds"]
    needed = sleep + settings.grace_seconds + settings.drain_seconds
    assert needed + 10 <= pod(resources)["spec"]["terminationGracePeriodSeconds"] <= needed + 11


def test_an_autoscaler_alone_says_how_many_replicas():
    """Else every upgrade would undo what it did."""
    resources = render("production")
    deployment, scaler = only(resources, "Deployment"), only(resources, "HorizontalPodAutoscaler")
    assert "replicas" not in deployment["spec"]
    assert scaler["spec"]["scaleTargetRef"]["name"] == deployment["metadata"]["name"]


def test_a_gpu_is_asked_for_where_it_is_wanted():
    """One a pod, on the nodes that are kept for those who ask, with the server told to use it."""
    resources = render("gpu")
    assert container(resources)["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"} in pod(resources)["spec"][
        "tolerations"
    ]
    assert read_settings([], environment(resources)).device == "cuda"
    assert "nvidia.com/gpu" not in str(render())


def test_secrets_are_files_that_the_server_can_read():
    """Mounted where the values say, for the user that the container runs as, and for nobody else."""
    resources = render("everything")
    spec = pod(resources)["spec"]
    mounted = {each["name"]: each["mountPath"] for each in container(resources)["volumeMounts"]}
    assert mounted == {"tmp": "/tmp", "gumball-tls": "/etc/gumball/tls", "gumball-tokens": "/etc/gumball/tokens"}  # noqa: S108
    secrets = [each["secret"] for each in spec["volumes"] if "secret" in each]
    assert {each["secretName"] for each in secrets} == {"gumball-tls", "gumball-tokens"}
    assert {each["defaultMode"] for each in secrets} == {0o440}
    assert spec["securityContext"]["fsGroup"] == spec["securityContext"]["runAsGroup"]


def test_tokens_and_certificates_are_files_that_are_mounted():
    """Each setting of a file is below where a Secret is; nothing else has to be said."""
    resources = render("secure")
    settings = read_settings([], environment(resources))
    mounted = [Path(each["mountPath"]) for each in container(resources)["volumeMounts"] if each.get("readOnly")]
    for file in (settings.tls_cert, settings.tls_key, settings.tls_client_ca, settings.token_file):
        assert Path(file).parent in mounted


@pytest.mark.parametrize(
    ("values", "http", "grpc"), [("defaults", "http", "kubernetes.io/h2c"), ("secure", "https", "https")]
)
def test_services_say_what_is_spoken(values, http, grpc):
    """For proxies and meshes that go by it; the admin port is plain in any case, and so are the probes."""
    resources = render(values)
    services = (each for each in resources if each["kind"] == "Service")
    spoken = {(port["name"], port["appProtocol"]) for each in services for port in each["spec"]["ports"]}
    assert spoken == {("http", http), ("grpc", grpc), ("admin", "http")}
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container(resources)[probe]["httpGet"].get("scheme", "HTTP") == "HTTP"


@pytest.mark.parametrize(
    ("given", "missing"), [("tls_cert", "tls_key"), ("tls_key", "tls_cert"), ("tls_client_ca", "tls_cert")]
)
def test_half_of_a_pair_is_refused(given, missing):
    """By helm, as the server would."""
    with pytest.raises(ValueError, match=missing):
        render(values={"settings": {given: "/file"}})


def test_the_operator_gets_the_rules_as_they_are():
    """With the templates of their annotations, which are Prometheus's and not helm's."""
    rules = yaml.safe_load((DEPLOY / "prometheus/rules.yaml").read_text())
    assert only(render("production"), "PrometheusRule")["spec"] == rules
