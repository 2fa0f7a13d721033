"""What is in a release, for whoever has to look for vulnerabilities: one CycloneDX document.

Each version of each package is one component, with its licence as the package states it, what it
depends on, and each file that it comes as, with checksums and the wheelhouses that hold it.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from datetime import datetime, timezone
from email.message import Message
from pathlib import Path

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import (
    ExternalReference,
    ExternalReferenceType,
    HashAlgorithm,
    HashType,
    Property,
    XsUri,
)
from cyclonedx.model.bom import Bom, BomMetaData
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output import make_outputter
from cyclonedx.schema import OutputFormat, SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packageurl import PackageURL
from packaging.requirements import Requirement

from tools.release import ReleaseError
from tools.release.archive import metadata, sha256
from tools.release.locks import EXTRAS
from tools.release.targets import Target, canonical


def bill(houses: Mapping[Target, Path], *, commit: str, timestamp_s: int) -> str:
    """Return the document, as JSON; the same input, the same text.

    Args:
        houses: The wheelhouse of each target.

    Raises:
        ReleaseError: It would not be valid.
    """
    components: dict[tuple[str, str], Component] = {}
    said: dict[tuple[str, str], Message] = {}
    for target, house in houses.items():
        for wheel in sorted((house / "wheels").iterdir()):
            about = metadata(wheel)
            key = canonical(str(about["Name"])), str(about["Version"])
            said.setdefault(key, about)
            component = components.setdefault(key, _component(key, about))
            _add_file(component, wheel, target)
    own = next(component for (name, _), component in components.items() if name == "appliance")
    own.type = ComponentType.APPLICATION
    document = Bom(
        components=[component for component in components.values() if component is not own],
        serial_number=uuid.uuid5(uuid.NAMESPACE_URL, f"appliance/{own.version}/{commit}"),
        metadata=BomMetaData(
            component=own,
            timestamp=datetime.fromtimestamp(timestamp_s, timezone.utc),
            properties=[Property(name="appliance:commit", value=commit)],
        ),
    )
    for key, component in components.items():
        needed = _needed(said[key], EXTRAS if component is own else ())
        document.register_dependency(
            component, [other for (name, _), other in components.items() if name in needed]
        )
    text = make_outputter(document, OutputFormat.JSON, SchemaVersion.V1_6).output_as_string(
        indent=2
    )
    if error := JsonStrictValidator(SchemaVersion.V1_6).validate_str(text):
        raise ReleaseError(f"the bill of materials is not valid: {error}")
    return text + "\n"


def _component(key: tuple[str, str], about: Message) -> Component:
    name, version = key
    stated = about["License-Expression"] or about["License"]
    # Some put the whole text there.
    brief = stated if stated and "\n" not in stated and len(stated) < 80 else None
    return Component(
        name=name,
        version=version,
        bom_ref=f"{name}=={version}",
        purl=PackageURL("pypi", name=name, version=version),
        licenses=[LicenseFactory().make_from_string(brief)] if brief else [],
    )


def _add_file(component: Component, wheel: Path, target: Target) -> None:
    known = {str(reference.url): reference for reference in component.external_references}
    reference = known.get(wheel.name)
    if reference is None:
        reference = ExternalReference(
            type=ExternalReferenceType.DISTRIBUTION,
            url=XsUri(wheel.name),
            hashes=[HashType(alg=HashAlgorithm.SHA_256, content=sha256(wheel))],
        )
        component.external_references.add(reference)
    component.properties.add(Property(name=f"appliance:wheelhouse:{target}", value=wheel.name))


def _needed(about: Message, extras: tuple[str, ...]) -> set[str]:
    """What a package depends on, for any of the targets, by name."""
    found: set[str] = set()
    for line in about.get_all("Requires-Dist") or ():
        requirement = Requirement(line)
        marker = str(requirement.marker or "")
        if "extra ==" not in marker or any(f'extra == "{extra}"' in marker for extra in extras):
            found.add(canonical(requirement.name))
    return found
