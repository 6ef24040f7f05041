# SPDX-License-Identifier: GPL-2.0-only
"""What a QEMU knows, as it says itself: asked by QMP of a QEMU without a machine, in half a second.

Never its version: distributions add to a version and leave out of it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from harness.errors import InfraError
from harness.guest.tee.arguments import Argument, keyed, machine_of
from harness.guest.tee.kinds import TEE_KINDS, TeeKind
from harness.host.reach import Reach

ASK_SECONDS: Final = 60.0
_QMP: Final = ("-M", "none", "-S", "-nodefaults", "-no-user-config", "-display", "none", "-qmp", "stdio")
_FED: Final = """\
folder=$(mktemp -d) && mkfifo "$folder/asked" || exit 126
exec 3<> "$folder/asked" 4<> "$folder/said"
rm -r "$folder"
cat >&3
timeout 50 "$@" <&3 >&4
code=$?
cat /proc/self/fd/4
exit $code"""
"""Runs a QEMU on what it is asked.  Its input has no end: at one the monitor drops what it has not answered.  Its
output is a file: at ``quit`` it drops what a pipe has not taken yet."""


@dataclass(frozen=True)
class Value:
    """What a property takes."""

    form: str
    """``boolean``, ``int``, ``string``, ``enum``, or '' for what is not checked."""
    words: tuple[str, ...] = ()
    """Of an enumeration."""
    required: bool = False


Members = Mapping[str, Value]


@dataclass(frozen=True)
class QemuSchema:
    """The answers of one QEMU, as far as one command line needs them."""

    program: str
    version: str
    """For people."""
    options: frozenset[str]
    """Of the command line, from ``-help``."""
    objects: Mapping[str, Members]
    """User-creatable objects and their properties."""
    netdevs: Mapping[str, Members]
    chardevs: frozenset[str]
    machines: Mapping[str, str]
    """Names and aliases of machines, with the name that their type is made from."""
    cpus: frozenset[str]
    groups: Mapping[str, frozenset[str]]
    """Parameters of options such as ``-name``, ``-smp-opts``; an empty set is a group that takes any."""
    types: frozenset[str]
    """All QOM types."""
    properties: Mapping[str, Members | None] = field(default_factory=dict)
    """Of the QOM types that the line names; None for one that this QEMU lacks."""
    devices: Mapping[str, Members | None] = field(default_factory=dict)
    events: Mapping[str, bool] = field(default_factory=dict)
    """Whether there is such a trace event."""
    machine: str = ""
    """The machine of the line: each ``-machine`` adds to those before it, and need not name it again."""


def machine_type(schema: QemuSchema, machine: str) -> str:
    """The QOM type of a machine, e.g. pc-q35-11.1-machine for q35; '' for one that this QEMU lacks."""
    name = schema.machines.get(machine)
    return f"{name}-machine" if name else ""


def cpu_type(model: str) -> str:
    """The QOM type of an x86 CPU."""
    return f"{model}-x86_64-cpu"


def survives_reset(schema: QemuSchema, kind: TeeKind) -> bool:
    """Whether this QEMU builds such a guest anew when it is reset: it has a trace event for just that.

    QEMU can since 11.0; before, a reset of an SNP or TDX guest ends it.  Unverified on hardware.
    """
    return not kind.reset_trace or schema.events.get(kind.reset_trace, False)


def ask_schema(reach: Reach, program: str, line: Iterable[Argument] = ()) -> QemuSchema:
    """Ask the QEMU of a host all that is needed to check ``line``.

    Raises ``InfraError`` when it is not there or does not answer as QEMU does, ``ReachError`` when the host is gone.
    """
    line = list(line)
    first = replace(_first(reach, program), machine=machine_of(line))
    wanted = _questions(first, line)
    answers = _ask(reach, program, [(question, arguments) for question, _, arguments in wanted])
    found: dict[str, dict[str, Any]] = {"qom-list-properties": {}, "device-list-properties": {}}
    events: dict[str, bool] = {}
    for (question, name, _), answer in zip(wanted, answers, strict=True):
        if question == "trace-event-get-state":
            events[name] = "return" in answer
        else:
            found[question][name] = _listed(answer)
    return replace(
        first, properties=found["qom-list-properties"], devices=found["device-list-properties"], events=events
    )


def _first(reach: Reach, program: str) -> QemuSchema:
    questions: list[tuple[str, Mapping[str, object]]] = [
        ("query-version", {}),
        ("query-qmp-schema", {}),
        ("qom-list-types", {"abstract": False}),
        ("query-machines", {}),
        ("query-cpu-definitions", {}),
        ("query-command-line-options", {}),
    ]
    answers = [_returned(program, answer) for answer in _ask(reach, program, questions)]
    version, entities, types, machines, cpus, groups = answers
    graph = _Graph({entity["name"]: entity for entity in entities})
    helped = reach.run([program, "-help"], timeout=ASK_SECONDS).text
    numbers = version["qemu"]
    return QemuSchema(
        program=program,
        version=f"QEMU {numbers['major']}.{numbers['minor']}.{numbers['micro']}",
        options=frozenset("-" + name for names in _HELP.findall(helped) for name in names if name),
        objects=graph.variants("object-add"),
        netdevs=graph.variants("netdev_add"),
        chardevs=frozenset(graph.words_of("chardev-add", "backend")),
        machines={name: item["name"] for item in machines for name in (item["name"], item.get("alias", "")) if name},
        cpus=frozenset(item["name"] for item in cpus),
        groups={item["option"]: frozenset(p["name"] for p in item["parameters"]) for item in groups},
        types=frozenset(item["name"] for item in types),
    )


_HELP: Final = re.compile(r"^--?([\w-]+)(?: or -([\w-]+))?", re.MULTILINE)


def _questions(schema: QemuSchema, line: Iterable[Argument]) -> list[tuple[str, str, Mapping[str, object]]]:
    """Command, name asked about, arguments."""
    types: set[str] = set()
    devices: set[str] = set()
    events = {event for kind in TEE_KINDS.values() for event in (*kind.traces, kind.reset_trace)}
    for argument in line:
        match argument.option:
            case "-machine" | "-M":
                types.add(machine_type(schema, schema.machine))
            case "-accel":
                types.add(f"{keyed(argument, 'accel').head}-accel")
            case "-cpu":
                types.add(cpu_type(argument.value.partition(",")[0]))
            case "-device":
                devices.add(keyed(argument, "driver").head)
            case "-trace":
                events.add(keyed(argument, "enable").head)
    asked: list[tuple[str, str, Mapping[str, object]]] = []
    asked += [("qom-list-properties", name, {"typename": name}) for name in sorted(types - {""})]
    asked += [("device-list-properties", name, {"typename": name}) for name in sorted(devices - {""})]
    asked += [("trace-event-get-state", name, {"name": name}) for name in sorted(events - {""})]
    return asked


def _ask(reach: Reach, program: str, questions: Sequence[tuple[str, Mapping[str, object]]]) -> list[dict[str, Any]]:
    """All answers, in order."""
    commands: list[dict[str, object]] = [{"execute": "qmp_capabilities"}]
    commands += [{"execute": name, "arguments": given, "id": n} for n, (name, given) in enumerate(questions)]
    commands.append({"execute": "quit"})
    stdin = "".join(json.dumps(command) + "\n" for command in commands).encode()
    asked = ["sh", "-c", _FED, "sh", program, *_QMP]
    done = reach.run(asked, stdin=stdin, timeout=ASK_SECONDS)
    if done.code == 127:
        raise InfraError(f"{reach.name} has no {program}: install QEMU there (Debian: qemu-system-x86)")
    answers: dict[int, dict[str, Any]] = {}
    for text in done.text.splitlines():
        try:
            message = json.loads(text)
        except ValueError:
            continue
        if isinstance(message, dict) and "id" in message:
            answers[message["id"]] = message
    missing = [name for n, (name, _) in enumerate(questions) if n not in answers]
    if missing:
        raise InfraError(f"{program} on {reach.name} does not answer {missing[0]}: {done.complaint}")
    return [answers[n] for n in range(len(questions))]


def _returned(program: str, answer: dict[str, Any]) -> Any:
    if "return" not in answer:
        raise InfraError(f"{program} refuses a question of QMP: {answer.get('error')}")
    return answer["return"]


_FORMS: Final = {"bool": "boolean", "str": "string", "string": "string"}


def _listed(answer: dict[str, Any]) -> Members | None:
    """Properties of a QOM type or device; QEMU names their types as C does, so only the plain ones are checked."""
    if "return" not in answer:
        return None
    return {item["name"]: Value(_form(item["type"])) for item in answer["return"]}


def _form(name: str) -> str:
    return "int" if re.fullmatch(r"u?int(8|16|32|64)?(_t)?|size", name) else _FORMS.get(name, "")


class _Graph:
    """The types of ``query-qmp-schema``."""

    def __init__(self, entities: Mapping[str, Any]) -> None:
        self.entities = entities

    def variants(self, command: str) -> dict[str, Members]:
        """What each case of a command's union takes beside what all take."""
        union = self.entities[self.entities[command]["arg-type"]]
        shared = self._members(union)
        cases = {case["case"]: case["type"] for case in union.get("variants", ())}
        words = self.entities[next(m["type"] for m in union["members"] if m["name"] == union["tag"])]
        return {name: {**shared, **self._members(self.entities.get(cases.get(name, "")))} for name in _words(words)}

    def words_of(self, command: str, member: str) -> list[str]:
        """The cases of a union that a command takes as one of its members."""
        arguments = self.entities[self.entities[command]["arg-type"]]
        union = self.entities[next(item["type"] for item in arguments["members"] if item["name"] == member)]
        return _words(self.entities[next(m["type"] for m in union["members"] if m["name"] == union["tag"])])

    def _members(self, entity: Mapping[str, Any] | None) -> dict[str, Value]:
        members = (entity or {}).get("members", ())
        return {item["name"]: replace(self._value(item["type"]), required="default" not in item) for item in members}

    def _value(self, name: str) -> Value:
        entity = self.entities.get(name, {})
        if entity.get("meta-type") == "enum":
            return Value("enum", tuple(_words(entity)))
        if entity.get("meta-type") == "builtin" and entity["json-type"] in ("boolean", "int", "string"):
            return Value(entity["json-type"])
        return Value("")


def _words(entity: Mapping[str, Any]) -> list[str]:
    return list(entity.get("values") or [item["name"] for item in entity.get("members", ())])
