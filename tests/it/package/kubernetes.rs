//! The example for Kubernetes is what its schemas allow, and asks for what the program has.

use std::path::Path;
use std::process::Command;

use serde_json::Value;
use testkit::TestDir;

use super::root;

/// The documents of YAML files, checked against Kubernetes' schemas.
#[track_caller]
pub(super) fn documents(files: &[&str]) -> Vec<Value> {
    read(files).unwrap_or_else(|error| panic!("{files:?}: {error}"))
}

/// The same, or what is wrong with one of them.
fn read(files: &[&str]) -> Result<Vec<Value>, String> {
    let python = testkit::install::python().unwrap().join("bin/python");
    let script = Path::new("tests/it/package/manifests.py");
    let output = Command::new(python).arg(script).args(files).current_dir(root()).output().unwrap();
    match output.status.success() {
        true => Ok(serde_json::from_slice(&output.stdout).unwrap()),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}

/// The only document of a kind.
#[track_caller]
pub(super) fn only<'a>(documents: &'a [Value], kind: &str) -> &'a Value {
    let mut found = documents.iter().filter(|document| document["kind"] == kind);
    let document = found.next().unwrap_or_else(|| panic!("no {kind}"));
    assert!(found.next().is_none(), "more than one {kind}");
    document
}

/// The part of a document that a JSON pointer names.
#[track_caller]
pub(super) fn at<'a>(document: &'a Value, pointer: &str) -> &'a Value {
    document.pointer(pointer).unwrap_or_else(|| panic!("no {pointer} in {document:#}"))
}

pub(super) fn example() -> Vec<Value> {
    documents(&["kubernetes/walpurge.yaml", "kubernetes/secret.yaml", "kubernetes/podmonitor.yaml"])
}

#[test]
fn the_schemas_of_kubernetes_allow_the_example() {
    let documents = example();
    let kinds: Vec<_> = documents.iter().map(|document| at(document, "/kind")).collect();
    let expected =
        ["ConfigMap", "Service", "StatefulSet", "PodDisruptionBudget", "Secret", "PodMonitor"];
    assert_eq!(kinds, expected);
    // They check: a word that is not theirs is refused.
    let dir = TestDir::new("kubernetes");
    let text = std::fs::read_to_string(root().join("kubernetes/walpurge.yaml")).unwrap();
    let broken = dir.join("broken.yaml");
    std::fs::write(&broken, text.replace("livenessProbe", "lifenessProbe")).unwrap();
    let refused = read(&[broken.to_str().unwrap()]).unwrap_err();
    assert!(refused.contains("lifenessProbe"), "{refused}");
}

#[test]
fn the_configuration_in_the_config_map_is_taken_and_fits_the_pod() {
    let documents = example();
    let config = at(only(&documents, "ConfigMap"), "/data/config.toml").as_str().unwrap();
    let dir = TestDir::new("kubernetes");
    std::fs::write(dir.join("config.toml"), config).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_walpurge"))
        .args(["check", "--offline", "--config"])
        .arg(dir.join("config.toml"))
        .env_clear()
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));

    // What it asks of the environment is in the secret, and nothing else is.
    let secret = only(&documents, "Secret");
    let names = at(secret, "/stringData").as_object().unwrap();
    for name in names.keys() {
        assert!(config.contains(&format!("env = \"{name}\"")), "{name} is not used");
    }
    assert_eq!(config.matches("env = ").count(), names.len());

    let set = only(&documents, "StatefulSet");
    assert_eq!(at(set, "/spec/replicas"), 2);
    let pod = at(set, "/spec/template/spec");
    let container = at(pod, "/containers/0");
    assert_eq!(at(container, "/envFrom/0/secretRef/name"), at(secret, "/metadata/name"));
    let port = at(container, "/ports/0");
    assert!(config.contains(&format!("0.0.0.0:{}\"", at(port, "/containerPort"))), "{port}");
    for (probe, path) in [("livenessProbe", "/livez"), ("readinessProbe", "/readyz")] {
        let get = at(container, &format!("/{probe}/httpGet"));
        assert_eq!((at(get, "/path"), at(get, "/port")), (&Value::from(path), at(port, "/name")));
    }
    let monitor = at(only(&documents, "PodMonitor"), "/spec/podMetricsEndpoints/0");
    assert_eq!(at(monitor, "/port"), at(port, "/name"));
    let token = at(monitor, "/authorization/credentials/key").as_str().unwrap();
    assert!(names.contains_key(token), "{token}");

    // Each directory that the image names is a volume of its own.
    let mounts = at(container, "/volumeMounts").as_array().unwrap();
    let mounts: Vec<_> =
        mounts.iter().map(|mount| at(mount, "/mountPath").as_str().unwrap()).collect();
    for (_, directory) in super::container::image().env {
        assert!(mounts.contains(&directory.as_str()), "{directory} is not mounted: {mounts:?}");
    }
    assert!(mounts.contains(&"/etc/walpurge"), "{mounts:?}");
}

#[test]
fn compose_mounts_what_the_image_names_and_asks_how_it_is() {
    let documents = documents(&["docker-compose.yml"]);
    let service = at(&documents[0], "/services/walpurge");
    let test = at(service, "/healthcheck/test/1").as_str().unwrap();
    assert_eq!(at(service, "/healthcheck/test/0"), "CMD-SHELL");
    assert_eq!(test, super::container::HEALTH_CHECK);
    let list = |key: &str| -> Vec<String> {
        let list = at(service, key).as_array().unwrap();
        list.iter().map(|value| value.as_str().unwrap().to_owned()).collect()
    };
    let places = [list("/volumes"), list("/tmpfs")].concat();
    for (_, directory) in super::container::image().env {
        let is_there = places.iter().any(|place| place.split(':').any(|part| part == directory));
        assert!(is_there, "{directory}: {places:?}");
    }
    let config = std::fs::read_to_string(root().join("docker/config.toml")).unwrap();
    let variables = at(service, "/environment").as_object().unwrap();
    for name in variables.keys() {
        assert!(config.contains(&format!("env = \"{name}\"")), "{name} is not used");
    }
    assert_eq!(config.matches("env = ").count(), variables.len());
    let ports = list("/ports");
    assert!(ports[0].ends_with(":8317") && config.contains("0.0.0.0:8317"), "{ports:?}");
}
