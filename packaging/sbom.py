#!/usr/bin/env python3
"""Prints what the program is made of as CycloneDX 1.5 (JSON): the crates that are linked in or build it, their licences,
sums and dependencies, by Cargo.lock. usage: packaging/sbom.py, in the tree; needs cargo.
"""
import json
import re
import subprocess

CHECKSUM = re.compile(r'name = "(.*)"\nversion = "(.*)"\nsource = .*\nchecksum = "(.*)"')


def metadata():
    target = subprocess.run(["rustc", "-vV"], capture_output=True, text=True, check=True).stdout
    host = re.search(r"host: (.*)", target).group(1)
    command = ["cargo", "metadata", "--format-version", "1", "--locked", "--filter-platform", host]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def linked(nodes, root):
    """The packages that a build of the program takes, without those of its tests."""
    found, todo = set(), [root]
    while todo:
        one = todo.pop()
        if one not in found:
            found.add(one)
            kinds = ((dep["pkg"], {kind["kind"] for kind in dep["dep_kinds"]}) for dep in nodes[one]["deps"])
            todo.extend(package for package, kind in kinds if kind != {"dev"})
    return found


def component(package, sums, kind="library"):
    name, version = package["name"], package["version"]
    reference = f"pkg:cargo/{name}@{version}"
    entry = {"type": kind, "bom-ref": reference, "name": name, "version": version, "purl": reference}
    if package["license"]:
        entry["licenses"] = [{"expression": package["license"].replace("/", " OR ")}]
    if (name, version) in sums:
        entry["hashes"] = [{"alg": "SHA-256", "content": sums[name, version]}]
    if package["repository"]:
        entry["externalReferences"] = [{"type": "vcs", "url": package["repository"]}]
    return entry


def main():
    data = metadata()
    packages = {package["id"]: package for package in data["packages"]}
    nodes = {node["id"]: node for node in data["resolve"]["nodes"]}
    root = data["resolve"]["root"]
    found = linked(nodes, root)
    with open("Cargo.lock", encoding="utf-8") as file:
        sums = {(name, version): sum for name, version, sum in CHECKSUM.findall(file.read())}

    def reference(package):
        return f"pkg:cargo/{packages[package]['name']}@{packages[package]['version']}"

    needs = [
        {"ref": reference(one), "dependsOn": sorted({reference(d["pkg"]) for d in nodes[one]["deps"] if d["pkg"] in found})}
        for one in found
    ]
    libraries = [component(packages[one], sums) for one in found if one != root]
    document = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"component": component(packages[root], sums, "application")},
        "components": sorted(libraries, key=lambda entry: entry["bom-ref"]),
        "dependencies": sorted(needs, key=lambda entry: entry["ref"]),
    }
    print(json.dumps(document, indent=1))


if __name__ == "__main__":
    main()
