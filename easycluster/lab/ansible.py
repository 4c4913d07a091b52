"""``ansible:FILE``: an inventory of Ansible as a lab, so that nobody keeps two lists of the same machines.

With Ansible installed, ``ansible-inventory --list`` reads it: plugins, vault and templates are Ansible's business.
Without it, YAML and INI are read here, with the ``group_vars`` and ``host_vars`` beside them.

Every group but ``all`` and ``ungrouped`` becomes a group and a role of its hosts, so ``ec_hosts("web")`` asks for a
host of ``web`` or of one of its children.  Connection variables become ``connect``, all others ``vars``, which
conditions can use.  A host that is reached neither by ssh nor locally is there, but disabled.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from easycluster.lab.ansiblefiles import read_ini, read_vars_beside, read_yaml
from easycluster.lab.positions import Entry, Items, Leaf, Place, Problems, Table, parse_tree
from easycluster.lab.ranges import RangeError, expand

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from easycluster.lab.positions import Node

PROGRAM: Final = "ansible-inventory"

# Plugins of a lab ask other machines.
PROGRAM_TIMEOUT: Final = 120.0

# Ansible's variables, and what of `connect` they are; the first one that is set wins.
_CONNECT: Final = {
    "address": ("ansible_host", "ansible_ssh_host"),
    "port": ("ansible_port", "ansible_ssh_port"),
    "user": ("ansible_user", "ansible_ssh_user"),
    "key_file": ("ansible_ssh_private_key_file", "ansible_private_key_file"),
    "ssh": ("ansible_ssh_executable",),
}
_ARGUMENTS: Final = ("ansible_ssh_args", "ansible_ssh_common_args", "ansible_ssh_extra_args")
_BECOME: Final = ("ansible_become", "ansible_become_method", "ansible_become_user")
_KNOWN: Final = (
    *(name for names in _CONNECT.values() for name in names),
    *_ARGUMENTS,
    *_BECOME,
    "ansible_connection",
    "ansible_python_interpreter",
)
_SSH: Final = ("ssh", "smart", "paramiko", "paramiko_ssh", "ansible.builtin.ssh", "ansible.builtin.paramiko_ssh")
_LOCAL: Final = ("local", "ansible.builtin.local")
_SECRET = re.compile(r"pass(word|wd|phrase)?$|_pass_|secret|token|api_?key|private_key$", re.IGNORECASE)
_ITSELF = re.compile(r"\{\{\s*inventory_hostname\s*\}\}")
_ROLE = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
_OUR_OWN = ("all", "ungrouped")


@dataclass
class Group:
    """One group, with what it says itself."""

    key: Leaf
    hosts: dict[str, Leaf] = field(default_factory=dict)
    children: dict[str, Leaf] = field(default_factory=dict)
    variables: dict[str, Entry] = field(default_factory=dict)


@dataclass
class AnsibleInventory:
    """What an inventory of Ansible says, however it was read."""

    groups: dict[str, Group] = field(default_factory=dict)
    hosts: dict[str, dict[str, Entry]] = field(default_factory=dict)
    keys: dict[str, Leaf] = field(default_factory=dict)

    def group(self, key: Leaf) -> Group:
        """The group of this name, made if it is new."""
        return self.groups.setdefault(key.text, Group(key))

    def add_host(self, key: Leaf, group: Group, problems: Problems) -> list[str]:
        """Put a host, or the hosts of a range, into a group; their names come back."""
        try:
            names = [one.name for one in expand(key.text)]
        except RangeError as exc:
            problems.add(key.place, str(exc))
            return []
        for name in names:
            one = Leaf(key.place, name)
            self.keys.setdefault(name, one)
            self.hosts.setdefault(name, {})
            group.hosts.setdefault(name, one)
        return names


def read_ansible(path: Path, problems: Problems, environ: Mapping[str, str]) -> Table | None:
    """The tree of a lab file that says the same.

    Args:
        path: The inventory: a YAML or INI file; a script, plugin configuration or directory with Ansible only.
        problems: Takes faults.
        environ: The environment, for Ansible's own settings.
    """
    program = shutil.which(PROGRAM, path=environ.get("PATH"))
    if not path.exists():
        problems.add_file(str(path), "")
        problems.add(Place(str(path), 1, 1), "cannot be read: No such file or directory")
        return None
    found = _ask_ansible(program, path, problems, environ) if program else _read_directly(path, problems)
    return None if found is None else _Lab(found, problems).table(Place(str(path), 1, 1))


def _read_directly(path: Path, problems: Problems) -> AnsibleInventory | None:
    place = Place(str(path), 1, 1)
    if path.is_dir() or path.stat().st_mode & 0o111:
        what = "a directory" if path.is_dir() else "a program"
        problems.add_file(str(path), "")
        problems.add(place, f"is {what}, which only Ansible reads", f"install Ansible, so that {PROGRAM} is there")
        return None
    inventory = AnsibleInventory()
    if path.suffix in (".yml", ".yaml", ".json"):
        if not read_yaml(path, inventory, problems):
            return None
    elif not read_ini(path, inventory, problems):
        return None
    read_vars_beside(path.absolute().parent, path.parent, inventory, problems)
    return inventory


def _ask_ansible(program: str, path: Path, problems: Problems, environ: Mapping[str, str]) -> AnsibleInventory | None:
    place = Place(str(path), 1, 1)
    try:
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
    except (OSError, UnicodeDecodeError):
        text = ""
    try:
        done = subprocess.run(
            [program, "-i", str(path), "--list"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=PROGRAM_TIMEOUT,
            check=False,
            env=dict(environ),
        )
    except (OSError, subprocess.TimeoutExpired) as exc:
        problems.add_file(str(path), text)
        problems.add(place, f"{PROGRAM} cannot be asked: {exc}")
        return None
    words = done.stderr.decode("utf-8", "replace").strip()
    # It warns of what it does not understand, and goes on without it: hosts would be missing from a green run.
    lost = [line for line in words.splitlines() if re.search(r"unable to parse|failed to parse|Skipping", line, re.I)]
    if done.returncode or lost:
        problems.add_file(str(path), text)
        said = (lost or words.splitlines() or [f"it ended with exit code {done.returncode}"])[-1]
        problems.add(place, f"{PROGRAM} says: {said.strip()}")
        return None
    # The answer has no positions: each name is looked for in the file.
    inner = Problems()
    tree = parse_tree(done.stdout.decode("utf-8", "replace"), str(path), inner)
    problems.add_file(str(path), text)
    if not isinstance(tree, Table) or len(inner):
        problems.add(place, f"{PROGRAM} answered something else than an inventory")
        return None
    return _from_answer(tree, _Finder(str(path), text))


class _Finder:
    """Finds where the file names a host or group, for a position that people can use."""

    def __init__(self, shown: str, text: str) -> None:
        self._shown = shown
        self._lines = text.splitlines()

    def __call__(self, name: str) -> Place:
        word = re.compile(rf"(?<![\w.-]){re.escape(name)}(?![\w.-])")
        for number, line in enumerate(self._lines, 1):
            match = word.search(line)
            if match:
                return Place(self._shown, number, match.start() + 1, len(name))
        return Place(self._shown, 1, 1)


def _from_answer(tree: Table, find: _Finder) -> AnsibleInventory:
    inventory = AnsibleInventory()
    variables: Mapping[str, Entry] = {}
    for name, entry in tree.entries.items():
        if name == "_meta":
            hostvars = entry.value.entries.get("hostvars") if isinstance(entry.value, Table) else None
            if hostvars is not None and isinstance(hostvars.value, Table):
                variables = hostvars.value.entries
            continue
        group = inventory.group(Leaf(find(name), name))
        if not isinstance(entry.value, Table):
            continue
        for part, names in (("hosts", group.hosts), ("children", group.children)):
            listed = entry.value.entries.get(part)
            for item in listed.value.items if listed is not None and isinstance(listed.value, Items) else ():
                if isinstance(item, Leaf):
                    names[item.text] = Leaf(find(item.text), item.text)
    for name in dict.fromkeys([*variables, *(host for group in inventory.groups.values() for host in group.hosts)]):
        inventory.keys[name] = Leaf(find(name), name)
        said = variables[name].value if name in variables else None
        place = inventory.keys[name].place
        entries = said.entries if isinstance(said, Table) else {}
        inventory.hosts[name] = {key: Entry(Leaf(place, key), _moved(one.value, place)) for key, one in entries.items()}
    return inventory


def _moved(node: Node, place: Place) -> Node:
    """The node at another place: the answer's own positions are in no file."""
    if isinstance(node, Leaf):
        # The answer is JSON, in which numbers and booleans stand bare and texts do not.
        return Leaf(place, node.text, node.plain)
    if isinstance(node, Items):
        return Items(place, tuple(_moved(one, place) for one in node.items))
    return Table(place, {key: Entry(Leaf(place, key), _moved(one.value, place)) for key, one in node.entries.items()})


class _Lab:
    """Says in the words of a lab file what an Ansible inventory says."""

    def __init__(self, inventory: AnsibleInventory, problems: Problems) -> None:
        self._inventory = inventory
        self._problems = problems

    def table(self, place: Place) -> Table:
        groups = {name: one for name, one in self._inventory.groups.items() if name not in _OUR_OWN}
        named = {name: group.key for name, group in groups.items() if _ROLE.fullmatch(name)}
        roles = {name: Entry(key, Table(key.place, {})) for name, key in named.items()}
        hosts = {}
        for name, key in self._inventory.keys.items():
            said = self._settings(self._variables(name), key.place)
            mine = [role for role in roles if name in self._below(role, ())]
            if mine:
                items = tuple(Leaf(key.place, role) for role in mine)
                said["roles"] = Entry(Leaf(key.place, "roles"), Items(key.place, items))
            hosts[name] = Entry(key, Table(key.place, said))
        sections = {
            "roles": roles,
            "groups": {name: Entry(group.key, self._group(group)) for name, group in groups.items()},
            "hosts": hosts,
        }
        return Table(place, {key: Entry(Leaf(place, key), Table(place, one)) for key, one in sections.items() if one})

    def _below(self, name: str, above: tuple[str, ...]) -> set[str]:
        group = self._inventory.groups.get(name)
        if group is None or name in above:
            return set()
        found = set(group.hosts)
        for child in group.children:
            found |= self._below(child, (*above, name))
        return found

    def _variables(self, host: str) -> dict[str, Entry]:
        """Everything that holds for a host: ``all``, then groups from the outermost inwards, then its own.

        Groups that lie equally deep come by name, so that the last of the alphabet wins: that is Ansible's rule.
        """
        merged: dict[str, Entry] = {}
        for name in sorted(self._inventory.groups, key=lambda one: (one != "all", self._depth(one, ()), one)):
            if name == "all" or host in self._below(name, ()):
                merged.update(self._inventory.groups[name].variables)
        return {**merged, **self._inventory.hosts[host]}

    def _depth(self, name: str, below: tuple[str, ...]) -> int:
        if name in below:
            return 0
        parents = [one for one, group in self._inventory.groups.items() if name in group.children and one != name]
        return 1 + max((self._depth(one, (*below, name)) for one in parents), default=0)

    def _group(self, group: Group) -> Table:
        place = group.key.place
        said: dict[str, Entry] = {}
        for part, names in (("hosts", group.hosts), ("children", group.children)):
            items = tuple(one for one in names.values() if one.text not in _OUR_OWN)
            if items:
                said[part] = Entry(Leaf(place, part), Items(place, items))
        return Table(place, said)

    def _settings(self, variables: Mapping[str, Entry], place: Place) -> dict[str, Entry]:
        said: dict[str, Entry] = {}
        connect: dict[str, Entry] = {}
        for key, one in variables.items():
            meant = next((name for name in _KNOWN if _is_slip(key, name)), "")
            # Ansible has hundreds, and lets everybody invent more.
            if meant and key not in _KNOWN:
                self._problems.add(one.key.place, f"Ansible has no variable {key!r}", f"did you mean {meant!r}?")
        for key, names in _CONNECT.items():
            entry = next((variables[name] for name in names if name in variables), None)
            if entry is not None and (leaf := self._filled(entry)) is not None:
                connect[key] = Entry(entry.key, leaf)
        arguments = [leaf for name in _ARGUMENTS if name in variables and (leaf := self._filled(variables[name]))]
        if arguments:
            connect["ssh_args"] = Entry(Leaf(place, "ssh_args"), Items(place, tuple(arguments)))
        self._way(variables, connect, said, place)
        python = variables.get("ansible_python_interpreter")
        chosen = python is not None and not (isinstance(python.value, Leaf) and python.value.text.startswith("auto"))
        if python is not None and chosen and (leaf := self._filled(python)) is not None:
            said["python"] = Entry(python.key, leaf)
        self._become(variables, said)
        if connect:
            said["connect"] = Entry(Leaf(place, "connect"), Table(place, connect))
        rest = {
            key: Entry(entry.key, _plain(key, entry.value))
            for key, entry in variables.items()
            if not key.startswith("ansible_") or _SECRET.search(key)
        }
        if rest:
            said["vars"] = Entry(Leaf(place, "vars"), Table(place, rest))
        return said

    def _way(
        self, variables: Mapping[str, Entry], connect: dict[str, Entry], said: dict[str, Entry], place: Place
    ) -> None:
        entry = variables.get("ansible_connection")
        if entry is None or not isinstance(entry.value, Leaf):
            return
        way = entry.value.text
        if way in _LOCAL:
            connect.clear()
            connect["via"] = Entry(entry.key, Leaf(entry.value.place, "local"))
        elif way in _SSH:
            connect["via"] = Entry(entry.key, Leaf(entry.value.place, "ssh"))
        else:
            why = f"ansible_connection is {way}; EasyCluster has ssh and local"
            said["enabled"] = Entry(entry.key, Leaf(entry.value.place, "false"))
            said["reason"] = Entry(entry.key, Leaf(entry.value.place, why, plain=False))

    def _become(self, variables: Mapping[str, Entry], said: dict[str, Entry]) -> None:
        entry = variables.get("ansible_become")
        if entry is None or not isinstance(entry.value, Leaf):
            return
        method, user = (variables.get(name) for name in _BECOME[1:])
        words = [one.value.text for one in (method, user) if one is not None and isinstance(one.value, Leaf)]
        if entry.value.text.casefold() not in ("true", "yes", "on", "1"):
            said["become"] = Entry(entry.key, Leaf(entry.value.place, "none"))
        elif all(word in ("sudo", "ansible.builtin.sudo", "root") for word in words):
            said["become"] = Entry(entry.key, Leaf(entry.value.place, "sudo"))
        else:
            text = f"ansible_become with {' and '.join(words)} cannot be done; there is only sudo to root"
            self._problems.add(entry.key.place, text)

    def _filled(self, entry: Entry) -> Leaf | None:
        """A connection variable as a lab file would have it, or None after noting why not."""
        if not isinstance(entry.value, Leaf):
            self._problems.add(entry.value.place, f"{entry.key.text} is not a text")
            return None
        text = _ITSELF.sub("\0", entry.value.text)
        if "{{" in text or "{%" in text:
            shown = f"{entry.key.text} is a template that only Ansible fills in"
            advice = "write the value, or --ec-set HOST.connect.KEY=..."
            self._problems.add(entry.value.place, shown, advice)
            return None
        return Leaf(entry.value.place, text.replace("$", "$$").replace("\0", "${host}"), plain=entry.value.plain)


def _is_slip(word: str, meant: str) -> bool:
    """Whether a word is another with one letter too few, too many or wrong, or two exchanged; no plural of it."""
    if word == meant or word == f"{meant}s" or abs(len(word) - len(meant)) > 1:
        return False
    same = next((at for at, (one, other) in enumerate(zip(word, meant, strict=False)) if one != other), len(word))
    left, right = word[same:], meant[same:]
    while left and right and left[-1] == right[-1]:
        left, right = left[:-1], right[:-1]
    return max(len(left), len(right)) <= 1 or (len(left) == 2 and left == right[::-1])


def _plain(name: str, node: Node) -> Node:
    """A variable's value as it is: ``$`` means nothing to Ansible.  What is named like a password is a secret."""
    if isinstance(node, Leaf):
        return Leaf(node.place, node.text.replace("$", "$$"), node.plain, node.secret or bool(_SECRET.search(name)))
    if isinstance(node, Items):
        return Items(node.place, tuple(_plain(name, one) for one in node.items))
    entries = {key: Entry(one.key, _plain(f"{name}_{key}", one.value)) for key, one in node.entries.items()}
    return Table(node.place, entries)
