"""What is printed: the targets with what was measured beside them, then a table for each section."""

from lab import COMMITTING_ALONE, name_of

def table(rows):
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for number, row in enumerate(rows):
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:])]
        print("  " + "  ".join(cells).rstrip())
        if number == 0:
            print("  " + "  ".join("-" * width for width in widths))
    print()


# The summary


def entry(work, values, form, *, target="", met=None, more=False):
    """A line of the summary. `values` by system; `form` makes text of one; `more` is better."""
    return {
        "work": work, "values": values, "text": {name: form(own) for name, own in values.items()},
        "target": target, "met": met, "more_is_better": more,
    }  # fmt: skip


def pick(results, field):
    return {name: own[field] for name, own in results.items() if isinstance(own, dict)}


COMMITS = {
    "commits": "one-row commits on disk",
    "commits-ram": "one-row commits in memory",
    "threads": "4 threads",
    "processes": "4 processes",
    "full": "synchronous=FULL",
    "updates": "random updates",
}


def of_commits(results):
    lines = []
    for section, title in COMMITS.items():
        if section not in results:
            continue
        all_ = {name: own for name, own in results[section]["summary"].items()
                if name == "plain" or name not in COMMITTING_ALONE}  # fmt: skip
        own = all_.get("sqlstream", {"ratio": 0, "p99_ratio": 0, "worst_us": 0})
        lines += [
            entry(f"{title}: commits/s", pick(all_, "commits_per_second"), lambda v: f"{v:,.0f}",
                  target=f"0.95 of plain; is {own['ratio']:.2f}", met=own["ratio"] >= 0.95, more=True),
            entry(f"{title}: p99", pick(all_, "p99_us"), lambda v: f"{v:,.0f} us",
                  target=f"1.2 of plain; is {own['p99_ratio']:.2f}", met=own["p99_ratio"] <= 1.2),
            entry(f"{title}: worst", pick(all_, "worst_us"), lambda v: f"{v / 1000:,.1f} ms",
                  target="25 ms", met=own["worst_us"] <= 25_000),
        ]  # fmt: skip
    return lines


def of_traffic(results):
    if "traffic" not in results:
        return []
    # Work and target shrink together.
    share = results["settings"]["paced_seconds"] / 20
    titles = {
        "inserts": (f"{40 * share:g}k inserts at 2,000/s", 6),
        "hot_row": (f"{20 * share:g}k updates of one row at 1,000/s", 0.1),
        "random": (f"{20 * share:g}k random updates at 1,000/s", 70),
    }
    lines = []
    for name, (title, most) in titles.items():
        for what, field in (("sent", "received"), ("stored", "stored")):
            own = results["traffic"][name]
            lines.append(
                entry(f"{title}: {what}", pick(own, field), lambda v: f"{v / 1e6:,.2f} MB",
                      target=f"{most * share:g} MB",
                      met=own["sqlstream"][field] <= most * share * 1e6 if "sqlstream" in own else None)
            )  # fmt: skip
    return lines


def of_quiet(results):
    if "quiet" not in results:
        return []
    own = results["quiet"]
    title = f"{results['settings']['quiet']} s idle"
    ours = own.get("sqlstream", {})
    return [
        entry(f"{title}: requests", pick(own, "requests"), str, target="0",
              met=ours.get("requests") == 0),
        entry(f"{title}: CPU", pick(own, "cpu_percent"), lambda v: f"{v:.2f} %", target="0",
              met=ours.get("cpu_percent") == 0),
    ]  # fmt: skip


def of_many(results):
    if "many" not in results:
        return []
    many = results["many"]
    plain, title = many["plain"], f"{many['databases']} databases, {many['rate']} tx/s"

    def over_plain(field):
        # Litestream is a process of its own, beside a plain one.
        return {name: own - (plain[field] if name == "sqlstream" else 0)
                for name, own in pick(many, field).items() if name != "plain"}  # fmt: skip

    # The second is for a thousand of them.
    most_cpu, most_memory = (5, 64) if many["databases"] <= 400 else (10, 96)
    cpu, memory, lists = over_plain("cpu_percent"), over_plain("peak_rss_mib"), pick(many, "lists")
    del lists["plain"]
    return [
        entry(f"{title}: CPU over plain", cpu, lambda v: f"{v:.1f} %", target=f"{most_cpu} %",
              met=cpu.get("sqlstream", 0) <= most_cpu),
        entry(f"{title}: memory over plain", memory, lambda v: f"{v:,.0f} MiB", target=f"{most_memory} MiB",
              met=memory.get("sqlstream", 0) <= most_memory),
        entry(f"{title}: LIST a second", {name: n / many["seconds"] for name, n in lists.items()},
              lambda v: f"{v:.1f}", target="0", met=lists.get("sqlstream") == 0),
    ]  # fmt: skip


def of_many_quiet(results):
    if "many-quiet" not in results:
        return []
    many = results["many-quiet"]
    title, ours = f"{many['databases']:,} databases, {many['seconds']} s idle", many.get("sqlstream", {})
    return [
        entry(f"{title}: requests", pick(many, "requests"), str, target="0", met=ours.get("requests") == 0),
        entry(f"{title}: CPU", pick(many, "cpu_percent"), lambda v: f"{v:.2f} %", target="0",
              met=ours.get("cpu_percent") == 0),
    ]  # fmt: skip


def of_restore_big(results):
    if "restore-big" not in results:
        return []
    big = results["restore-big"]
    title = f"restore {big['database_mb']} MB + {big['updates_s']} s of updates"
    seconds, memory = pick(big, "seconds"), pick(big, "peak_rss_mib")
    seconds["raw"], of_raw = big["raw"]["seconds"], big["of_raw"]
    of_peer = big.get("of_litestream")
    del memory["raw"]
    peer = f"0.8 of 0.3.13; is {of_peer:.2f}" if of_peer else ""
    return [
        entry(title, seconds, lambda v: f"{v:.2f} s",
              target=f"{peer}, or 1.1 of raw ({seconds['raw']:.2f} s); is {of_raw:.2f}",
              met=of_raw <= 1.1 or (of_peer is not None and of_peer <= 0.8)),
        entry(f"{title}: memory", memory, lambda v: f"{v:,.0f} MiB", target="64 MiB",
              met=memory["sqlstream"] <= 64),
    ]  # fmt: skip


def of_restore(results):
    if "restore" not in results:
        return []
    restore = results["restore"]
    far = {own["how"]: own for own in restore["restores"] if own["far_ms"]}
    peers = {name: own for name, own in far.items() if name.startswith("litestream")}
    title = f"restore {restore['segments']:,} segments, {restore['far_ms']} ms away"
    ways = {"from segments": ("sqlstream, from segments", 5), "compacted": ("sqlstream", 2)}
    lines = []
    for way, (name, most) in ways.items():
        all_ = {**peers, "sqlstream": far[name]}
        lines += [
            entry(f"{title}, {way}", pick(all_, "seconds"), lambda v: f"{v:.1f} s",
                  target=f"{most} s", met=far[name]["seconds"] <= most),
            entry(f"{title}, {way}: memory", pick(all_, "peak_rss_mib"), lambda v: f"{v:,.0f} MiB",
                  target="64 MiB", met=far[name]["peak_rss_mib"] <= 64),
        ]  # fmt: skip
    for line in lines:
        for peer, own in peers.items():
            if own["over"] and line["text"][peer].endswith(" s"):
                line["text"][peer] = "> " + line["text"][peer]
    share = restore["compacted"]["bytes"] / max(1, restore["wal"]["bytes"])
    lines.append(entry("storage that compaction adds, of the segments", {"sqlstream": share},
                       lambda v: f"{100 * v:.0f} %"))  # fmt: skip
    return lines


def of_sync(results):
    """One PUT is what a commit cannot be quicker than; the rate is beside plain SQLite's writers that
    commit and then sleep for as long as one takes."""
    lines = []
    for own in results.get("sync", []):
        title = f"commits that wait, {own['writers']} writers, {own['delay_ms']:.0f} ms away"
        over = own["p99_us"] / 1000 - own["put_ms"]
        share = own["commits_per_second"] / own["plain"]["commits_per_second"]
        lines += [
            entry(f"{title}: p99", {"sqlstream": own["p99_us"] / 1000}, lambda v: f"{v:.1f} ms",
                  target=f"one PUT ({own['put_ms']:.1f} ms) + 10 ms", met=over <= 10),
            entry(f"{title}: of those that sleep", {"sqlstream": share}, lambda v: f"{v:.2f}",
                  target="0.9", met=share >= 0.9),
        ]  # fmt: skip
    return lines


def of_the_rest(results):
    lines = []

    def add(section, title, field, form, target, most):
        if section in results:
            values = pick(results[section], field)
            met = values["sqlstream"] <= most if "sqlstream" in values else None
            lines.append(entry(title, values, form, target=target, met=met))

    def milliseconds(value):
        return f"{value:,.1f} ms"

    add("idle", "commit after idle until visible: median", "median_ms", milliseconds, "15 ms", 15)
    add("lag", "2,000 commits/s until visible: p99", "p99_ms", milliseconds, "1,100 ms", 1100)
    add("outage", f"caught up after {results['settings']['outage']} s without a store", "caught_up_s",
        lambda v: f"{v:.1f} s", "10 s", 10)  # fmt: skip
    if "memory" in results:
        memory = results["memory"]
        plain = memory["plain"]["peak_rss_mib"]
        values = {name: own - (plain if name == "sqlstream" else 0)
                  for name, own in pick(memory, "peak_rss_mib").items() if name != "plain"}  # fmt: skip
        lines.append(
            entry(f"snapshot of {memory['database_mib']:,} MiB: memory over plain", values,
                  lambda v: f"{v:,.0f} MiB", target="48 MiB", met=values.get("sqlstream", 0) <= 48)
        )  # fmt: skip
    return lines


def summary(results):
    """What was measured, by the targets that this project has."""
    parts = (of_commits, of_the_rest, of_traffic, of_quiet, of_many, of_many_quiet, of_restore_big,
             of_restore, of_sync)  # fmt: skip
    return [line for part in parts for line in part(results)]


def print_summary(lines):
    systems = ("plain", "litestream", "litestream-0.5", "sqlstream")
    rows = [("", *(name_of(system) for system in systems), "target", "met")]
    for line in lines:
        cells = [line["text"].get(system, "-") for system in systems]
        met = {None: "", True: "yes", False: "NO"}[line["met"]]
        rows.append((line["work"], *cells, line["target"], met))
    print("Beside the targets of this project (at most so much, but of commits/s at least)")
    table(rows)


# The sections


def print_commits(title, result):
    print(title)
    rows = [("", "commits/s", "of plain", "(lowest)", "CPU", "p50 us", "p99 us", "worst ms")]
    for system, s in result["summary"].items():
        rows.append(
            (name_of(system), f"{s['commits_per_second']:,.0f}", f"{s['ratio']:.3f}",
             f"{s['ratio_lowest']:.3f}",
             f"{s['thread_cpu_ratio']:.3f}" if "thread_cpu_ratio" in s else "-",
             f"{s['p50_us']:.1f}", f"{s['p99_us']:.1f}", f"{s['worst_us'] / 1000:.1f}")
        )  # fmt: skip
    table(rows)


def print_heading(results):
    machine, settings = results["machine"], results["settings"]
    print(
        f"\n{machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB, "
        f"Linux {machine['kernel']}, {machine['filesystem']}, {machine['date']}, "
        f"load {machine['load_at_start']} to {machine['load_at_end']}"
    )
    print(
        f"{machine['sqlstream']}, SQLite {machine['sqlite']}, MinIO on loopback, sync interval 1 s, "
        f"medians of {settings['runs']} interleaved runs\n"
    )


def print_report(results):
    settings = results["settings"]
    print_heading(results)
    count, seconds = settings["commits"], settings["writer_seconds"]
    titles = {
        "commits": f"{count:,} one-row commits, unpaced, on {results['machine']['filesystem']}",
        "commits-ram": f"{count:,} one-row commits, unpaced, in memory (tmpfs)",
        "threads": f"4 threads that commit rows for {seconds} s, in memory",
        "processes": f"4 processes that commit rows for {seconds} s, in memory",
        "full": f"{count // 60:,} one-row commits with synchronous=FULL, on disk",
        "updates": f"{count // 3:,} updates of random rows, unpaced, in memory",
    }
    for section, title in titles.items():
        if section in results:
            print_commits(title, results[section])
    if "idle" in results:
        print_idle(results["idle"], settings["idle"])
    if "traffic" in results:
        print_traffic(results["traffic"])
    if "quiet" in results:
        print_quiet(results["quiet"], settings["quiet"])
    if "many" in results:
        print_many(results["many"])
    if "many-quiet" in results:
        print_many_quiet(results["many-quiet"])
    if "lag" in results:
        print_lag(results["lag"], settings["paced_seconds"])
    if "restore" in results:
        print_restore(results["restore"])
    if "memory" in results:
        print_memory(results["memory"])
    if "sync" in results:
        print_sync(results["sync"])
    if "counts" in results:
        print_counts(results["counts"])
    if results["summary"]:
        print_summary(results["summary"])


def of_peer(own, results, field):
    """Of Litestream 0.3.13's, which has shown how since 2021."""
    base = results.get("litestream", {}).get(field)
    return f"{own[field] / base:.3f}" if base else "-"


def print_idle(idle, times):
    print(f"One commit after 3 s of quiet until it is in the bucket, {times} times")
    rows = [("", "median ms", "worst ms", "of 0.3.13")]
    for system, own in idle.items():
        rows.append((name_of(system), f"{own['median_ms']:.1f}", f"{own['worst_ms']:.1f}",
                     of_peer(own, idle, "median_ms")))  # fmt: skip
    table(rows)


def print_lag(lag, seconds):
    print(f"Inserts at 2,000/s for {seconds} s: each commit until it is in the bucket")
    rows = [("", "median ms", "p99 ms", "worst ms", "of 0.3.13")]
    for system, own in lag.items():
        cells = [f"{own[name]:,.0f}" for name in ("median_ms", "p99_ms", "worst_ms")]
        rows.append((name_of(system), *cells, of_peer(own, lag, "p99_ms")))
    table(rows)


def print_memory(memory):
    print(f"Peak memory, MiB, while a database of {memory['database_mib']:,} MiB is snapshotted")
    rows = [("", "anonymous", "over plain", "RSS", "over plain", "snapshot s")]
    plain = memory["plain"]
    for system, own in memory.items():
        if not isinstance(own, dict):
            continue
        # Litestream is a process of its own, beside a plain one.
        base = {} if system.startswith("litestream") else plain
        cells = []
        for name in ("peak_anonymous_mib", "peak_rss_mib"):
            cells += [f"{own[name]:.1f}", f"{own[name] - base.get(name, 0):.1f}"]
        seconds = "-" if system == "plain" else f"{own['snapshot_seconds']:.1f}"
        rows.append((name_of(system), *cells, seconds))
    table(rows)


def print_traffic(traffic):
    titles = {
        "inserts": "Inserts at 2,000/s (100 bytes of incompressible payload each)",
        "hot_row": "Updates of one row at 1,000/s",
        "random": "Updates of random rows of 100,000 at 1,000/s",
    }
    for name, title in titles.items():
        own = traffic[name]
        seconds = next(iter(own.values()))["seconds"] if own else 0
        print(f"{title}, for {seconds:.0f} s")
        rows = [("", "PUTs", "LISTs", "all requests", "bytes sent", "stored", "sent of 0.3.13")]
        for system, one in own.items():
            rows.append((name_of(system), *(f"{one[field]:,}" for field in
                         ("puts", "lists", "requests", "received", "stored")),
                         of_peer(one, own, "received")))  # fmt: skip
        table(rows)


def print_quiet(quiet, seconds):
    print(f"{seconds} s without a commit")
    rows = [("", "PUTs", "LISTs", "all requests", "CPU %")]
    for system, own in quiet.items():
        rows.append((name_of(system), str(own["puts"]), str(own["lists"]), str(own["requests"]),
                     f"{own['cpu_percent']:.2f}"))  # fmt: skip
    table(rows)


def print_many(many):
    print(
        f"{many['databases']:,} databases in one process, {many['rate']} commits/s over all, "
        f"for {many['seconds']} s"
    )
    rows = [("", "CPU %", "RSS MiB", "peak", "threads", "PUTs", "LISTs", "all requests", "begun in s")]
    for system, own in many.items():
        if isinstance(own, dict):
            rows.append((name_of(system), f"{own['cpu_percent']:.1f}", f"{own['rss_mib']:,.0f}",
                         f"{own['peak_rss_mib']:,.0f}", str(own["threads"]), f"{own['puts']:,}",
                         f"{own['lists']:,}", f"{own['requests']:,}",
                         f"{own['settled_after_s']:.1f}"))  # fmt: skip
    table(rows)


def print_many_quiet(many):
    print(
        f"{many['databases']:,} databases in {many['processes']} processes, "
        f"{many['seconds']} s without a commit"
    )
    rows = [("", "CPU %", "all requests", "RSS MiB", "threads", "descriptors", "begun in s")]
    for system, own in many.items():
        if isinstance(own, dict):
            rows.append((name_of(system), f"{own['cpu_percent']:.2f}", str(own["requests"]),
                         f"{own['rss_mib']:,.0f}", str(own["threads"]), f"{own['descriptors']:,}",
                         f"{own['settled_after_s']:.1f}"))  # fmt: skip
    table(rows)


def print_counts(counted):
    print("One commit on the thread that makes it: instructions in user space, and system calls")
    calls = sorted({name for own in counted.values() for name in own["by_call"]})
    rows = [("", "instructions", "of plain", "calls", *calls)]
    for system, own in counted.items():
        ratio = own["instructions"] / counted["plain"]["instructions"]
        rows.append((name_of(system), f"{own['instructions']:,.0f}", f"{ratio:.3f}",
                     f"{own['calls']:.2f}", *(f"{own['by_call'].get(name, 0):.3f}" for name in calls)))  # fmt: skip
    table(rows)


def print_restore(results):
    wal, compacted = results["wal"], results["compacted"]
    print(
        f"Restore of {wal['objects']:,} segments ({wal['bytes'] / 2**20:.1f} MiB), folded into "
        f"{compacted['objects']} ({compacted['bytes'] / 2**20:.1f} MiB)"
    )
    rows = [("", "latency ms", "seconds", "of 0.3.13", "peak RSS MiB")]
    for own in results["restores"]:
        base = {other["how"]: other for other in results["restores"]
                if other["far_ms"] == own["far_ms"]}  # fmt: skip
        seconds = f"{'> ' if own['over'] else ''}{own['seconds']:.2f}"
        rows.append((name_of(own["how"]), str(own["far_ms"]), seconds, of_peer(own, base, "seconds"),
                     f"{own['peak_rss_mib']:.0f}"))  # fmt: skip
    table(rows)


def print_sync(results):
    print("Commits that wait until they are in the bucket of a far store. SQLite: plain writers, who commit one")
    print("after the other and then all wait for the time of one PUT")
    rows = [("delay ms", "one PUT ms", "p99 ms", "writers", "commits/s", "of writers/PUT", "of SQLite's",
             "per upload", "p50 ms", "p99 ms", "SQLite's p99 ms", "worst ms")]  # fmt: skip
    for own in results:
        rate, plain = own["commits_per_second"], own["plain"]
        rows.append(
            (f"{own['delay_ms']:.0f}", f"{own['put_ms']:.1f}", f"{own['put_p99_ms']:.1f}",
             str(own["writers"]), f"{rate:,.0f}",
             f"{rate * own['put_ms'] / 1000 / own['writers']:.2f}",
             f"{rate / plain['commits_per_second']:.2f}",
             f"{own['rows'] / max(own['uploads'], 1):.1f}", f"{own['p50_us'] / 1000:.1f}",
             f"{own['p99_us'] / 1000:.1f}", f"{plain['p99_us'] / 1000:.1f}",
             f"{own['worst_us'] / 1000:.1f}")
        )  # fmt: skip
    table(rows)
