"""Reads YAML files, checks Kubernetes' objects in them against its schemas, and prints all documents
as a JSON list. A kind that the schemas do not have (a custom resource) is left unchecked."""

import json
import sys

import kubernetes_validate
import yaml

# The kinds of others than Kubernetes.
CUSTOM = {"PodMonitor"}
VERSIONS = ["1.29", "1.34"]

documents = []
for name in sys.argv[1:]:
    with open(name, encoding="utf-8") as file:
        documents.extend(yaml.safe_load_all(file))
for document in documents:
    if "kind" not in document or document["kind"] in CUSTOM:
        continue
    for version in VERSIONS:
        kubernetes_validate.validate(document, version, strict=True)
json.dump(documents, sys.stdout)
