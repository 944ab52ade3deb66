"""documented.py CAIRN: every verb, option, target, target word, message and tunable is in some page of man/, marked up as what it
is (options as Fl, words as Cm), every page refers to pages that exist, and no page names an option or verb that does not exist."""

import glob
import os
import re
import subprocess
import sys

cairn, here = sys.argv[1], os.path.dirname(os.path.abspath(__file__))
top = os.path.join(here, "../..")
MACROS = set("Ar Cm Fl Op Oo Oc Pq Po Pc Ns Xr Pa Ev Li Em Ql Dq Brq Sx Nm Ic It Dl D1 Sh Ss Nd No Tg Ta Dv Bd Bl".split())
bad = []


def marked(path):
    """(flags, words): what stands behind Fl, and behind Cm, in this page."""
    flags, words = set(), set()
    for line in open(path):
        if not line.startswith("."):
            continue
        macro = None
        for token in line[1:].split():
            if token in MACROS:
                macro = token
            elif token in "|,;()." or token.startswith("\\&"):
                continue
            elif macro == "Fl":
                flags.add(token)
            elif macro in ("Cm", "Ic"):
                words.add(token)
    return flags, words


def run(*arguments):
    done = subprocess.run([cairn, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return done.stdout


def read(path):
    return open(os.path.join(top, path)).read()


pages = {os.path.basename(p): marked(p) for p in glob.glob(top + "/man/*.[0-9]")}
flags = set().union(*(f for f, _ in pages.values()))
words = set().union(*(w for _, w in pages.values()))


def want(kind, found, names, least):
    names = set(names)
    if len(names) < least:
        bad.append("only %d times %s: is this test still looking in the right place?" % (len(names), kind))
    for name in sorted(names):
        if name not in found:
            bad.append("no page tells of the %s %s" % (kind, name))


usage = run("help")
verbs = [v for line in re.findall(r"^\t(\S+)", usage, re.M) for v in line.split("|")]
want("verb", words, verbs, 35)
table = read("Sources/cairn/Options.swift").split("/// The parsed command line.")[0]
options = re.findall(r'Option\("([\w-]+)"(?:, (?:"(.)"|nil))?', table)
want("option", flags, ["-" + name for name, _ in options], 80)
want("letter", flags, [letter for _, letter in options if letter], 20)
types = [t for t in run("targets").split() if not re.match(r"v\d", t)]
want("target", words, types, 7)
for name in types:
    if "cairn-%s.7" % name not in pages:
        bad.append("the target %s has no page in section 7" % name)

# The words of each target, in the page of this target.
settings = read("Sources/CairnTargets/SSDCache/SSDCacheSettings.swift").split("var text: String")[0]
ssdcache = pages["cairn-ssdcache.7"][1]
want("word of ssdcache", ssdcache, re.findall(r'case "(\w+)":', settings), 12)
flakey = read("Sources/CairnTargets/Basic/Flakey.swift")
want("word of flakey", pages["cairn-flakey.7"][1], re.findall(r'case "(\w+)":', flakey), 6)
messages = read("Sources/CairnTargets/SSDCache/SSDCacheMessages.swift")
forms = re.findall(r'"([a-z_]+)[^"]*"', messages.split("messageForms =")[1].split("SSDCacheTunables.ranges.map")[0])
want("message", ssdcache, forms, 6)
tunables = set()
for path in glob.glob(top + "/Sources/CairnTargets/SSDCache/*.swift"):
    text = open(path).read()
    if "static let ranges" in text:
        tunables |= set(re.findall(r'\("([a-z_]+)", ', text.split("static let ranges")[1].split("\n    ]")[0]))
want("tunable", ssdcache, tunables, 9)
for name, (mine, _) in pages.items():
    for flag in mine:
        # top's letters are its own; a sort key may have a dash in front.
        if flag.startswith("-") and flag[1:] not in {o for o, _ in options}:
            bad.append("%s tells of the option -%s, which does not exist" % (name, flag))
    for page, section in re.findall(r"^\.?.*\bXr (cairn[\w-]*) (\d)", read("man/" + name), re.M):
        if "%s.%s" % (page, section) not in pages:
            bad.append("%s refers to %s(%s), which does not exist" % (name, page, section))
for page in pages:
    stem, section = page.rsplit(".", 1)
    if page != "cairn.8" and not re.search(r"^\.Xr %s %s\b" % (re.escape(stem), section), read("man/cairn.8"), re.M):
        bad.append("cairn(8) does not refer to %s(%s)" % (stem, section))

# mandoc's opinion. One message is accepted: examples come first here, before the description, because that is what a reader
# opens a page for; mdoc's conventional order has them near the end.
accepted = re.compile(r"WARNING: sections out of conventional order: Sh DESCRIPTION$")
lint = subprocess.run(["mandoc", "-T", "lint", "-W", "warning"] + sorted(glob.glob(top + "/man/*.[0-9]")), stdout=subprocess.PIPE, text=True)
bad += [line for line in lint.stdout.splitlines() if not accepted.search(line)]
print("\n".join(bad) or "%d options, %d verbs, %d pages" % (len(options), len(verbs), len(pages)))
sys.exit(1 if bad else 0)
