// Lays a result of `equeue bench` out on the page: figures, warnings, charts, tables, and what it takes to repeat the run.
"use strict";

const result = JSON.parse(document.getElementById("result").textContent);
const whole = (value) => Math.round(value).toLocaleString("en-US");
const some = (value) => value !== null && value !== undefined;
const seconds = result.per_second || [];
// The last second of a run is cut short: its rate is over its own length.
const rateOf = (key) => seconds.filter((second) => second.seconds > 0.2 && some(second[key]))
  .map((second) => [second.second, second[key] / second.seconds]);

function figure(name, value, unit, more, tone) {
  const shown = make("div", { class: `value ${tone || ""}` }, value, unit ? make("small", {}, ` ${unit}`) : null);
  return make("div", { class: "card figure" }, make("div", { class: "name" }, name), shown,
    more ? make("div", { class: "more" }, more) : null);
}

function figures() {
  const cards = [figure("throughput", whole(result.messages_per_second), "messages/s",
    `${whole(result.mb_per_second)} MB/s · ${whole(result.messages)} in ${Number(result.seconds.toFixed(1))} s`)];
  if (result.consumed)
    cards.push(figure("received", whole(result.consumed.messages_per_second), "messages/s", `${whole(result.consumed.mb_per_second)} MB/s`));
  if (result.max_rate)
    cards.push(figure("highest rate held", some(result.max_rate.rate) ? whole(result.max_rate.rate) : "none", "messages/s",
      `p99 under ${time(result.max_rate.p99_us_max)}`));
  for (const [name, found] of [["acknowledged", result.latency_us], ["end to end", result.end_to_end_us]])
    if (found) cards.push(figure(`${name}, p99`, time(found.p99), "", `p50 ${time(found.p50)} · p99.9 ${time(found.p99_9)} · max ${time(found.max)}`));
  if (some(result.broker_cpu_seconds) && result.seconds > 0)
    cards.push(figure("broker CPU", (result.broker_cpu_seconds / result.seconds).toFixed(2), "cores",
      result.messages > 0 ? `${(result.broker_cpu_seconds / result.messages * 1e6).toFixed(2)} µs a message` : ""));
  if (some(result.lost)) {
    const wrong = result.lost + result.duplicated + result.reordered + result.corrupted;
    cards.push(figure("verified", wrong === 0 ? "all right" : `${whole(wrong)} wrong`, "",
      `${result.lost} lost · ${result.duplicated} doubled · ${result.reordered} out of order · ${result.corrupted} changed`, wrong === 0 ? "good" : "bad"));
  }
  if (result.outage)
    cards.push(figure(result.outage.killed ? "broker killed" : "broker stopped", time(result.outage.silence_ms * 1000), "silence",
      `ready again after ${time(result.outage.ready_after_ms * 1000)}`));
  if (result.backlog)
    cards.push(figure("backlog", whole(result.backlog.messages), "messages",
      some(result.backlog.drained_after_seconds) ? `drained in ${result.backlog.drained_after_seconds.toFixed(1)} s` : "not drained"));
  return make("div", { class: "figures" }, ...cards);
}

const overTime = { label: "seconds", format: short, tip: (second) => `second ${second}` };
const line = (name, color, points, dash) => ({ name, color, points, dash });

function latencyOverTime(key, title, note) {
  const of = (percentile) => seconds.filter((second) => second[key]).map((second) => [second.second, second[key][percentile]]);
  return chart({ title, note, x: overTime, y: { scale: "log", format: time }, lines: [
    line("p50", "c0", of("p50")), line("p90", "c2", of("p90")), line("p99", "c1", of("p99")),
    line("p99.9", "c3", of("p99_9")), line("max", "c4", of("max"), "2 4")] });
}

function charts() {
  const curve = (name) => (result.curves && result.curves[name]) || [];
  const percent = (share) => (share === 0 ? "0 %" : `${Number((share * 100).toPrecision(8))} %`);
  const runs = result.runs || [];
  const atRate = (key, percentile) => runs.filter((run) => run[key]).map((run) => [run.rate, run[key][percentile]]);
  const inMb = (points) => points.map(([at, bytes]) => [at, bytes / 1e6]);
  const hasLag = seconds.some((second) => second.received > 0);
  const drawn = [
    chart({ title: "Latency against rate", note: "from when a message was due to its acknowledgement",
      x: { label: "messages/s", format: short, tip: (rate) => `${whole(rate)} messages/s` }, y: { scale: "log", format: time },
      lines: [line("p50", "c0", atRate("latency_us", "p50")), line("p99", "c1", atRate("latency_us", "p99")),
        line("p99.9", "c3", atRate("latency_us", "p99_9")), line("end to end p99", "c2", atRate("end_to_end_us", "p99"), "6 4")] }),
    chart({ title: "Throughput", note: "messages in each second", x: overTime, y: { format: short },
      lines: [line("acknowledged", "c0", rateOf("acknowledged").filter(() => seconds.some((second) => second.acknowledged > 0))),
        line("received", "c2", hasLag ? rateOf("received") : [], "6 4")] }),
    latencyOverTime("latency_us", "Time to the acknowledgement", "percentiles of each second"),
    latencyOverTime("end_to_end_us", "Time end to end", "until a consumer had the message; percentiles of each second"),
    chart({ title: "Percentiles", note: "share of messages that took at most so long",
      x: { scale: "nines", format: percent, label: "share of messages" }, y: { scale: "log", format: time },
      lines: [line("to the acknowledgement", "c0", curve("response")), line("service time", "c2", curve("service"), "6 4"),
        line("publish delay", "c3", curve("publish_delay"), "2 4"), line("end to end", "c1", curve("end_to_end"))] }),
    chart({ title: "CPU", note: "cores in use, of this machine", x: overTime, y: { format: short },
      lines: [line("broker", "c0", rateOf("broker_cpu_seconds")), line("generator", "c1", rateOf("client_cpu_seconds"), "6 4")] }),
    chart({ title: "Disk", note: "what the broker wrote and read", x: overTime, y: { format: short, label: "MB/s" },
      lines: [line("written", "c0", inMb(rateOf("disk_write_bytes"))), line("read", "c1", inMb(rateOf("disk_read_bytes")), "6 4")] }),
    chart({ title: "Waiting", note: "messages at the end of each second", x: overTime, y: { format: short },
      lines: [line("unanswered", "c0", seconds.map((second) => [second.second, second.in_flight])),
        line("not yet received", "c2", hasLag ? seconds.map((second) => [second.second, second.lag]) : [], "6 4")] }),
  ];
  return make("div", { class: "charts" }, ...drawn);
}

function table(head, rows) {
  const body = rows.map((row) => make("tr", {}, ...row.map((cell) => (cell instanceof Node ? cell : make("td", {}, cell)))));
  return make("div", { class: "scroll" }, make("table", {},
    make("thead", {}, make("tr", {}, ...head.map((cell) => make("th", { scope: "col" }, cell)))), make("tbody", {}, ...body)));
}

function percentileTable() {
  const keys = ["p50", "p90", "p99", "p99_9", "p99_99", "max"];
  const rows = [["to the acknowledgement", result.latency_us], ["service time", result.service_us],
    ["publish delay", result.publish_delay_us], ["end to end", result.end_to_end_us]]
    .filter(([, found]) => found).map(([name, found]) => [name, ...keys.map((key) => time(found[key]))]);
  if (rows.length === 0) return null;
  return make("section", { class: "card" }, make("h2", {}, "Times of a message"),
    table(["", "p50", "p90", "p99", "p99.9", "p99.99", "max"], rows));
}

function runsTable() {
  if (!result.runs || result.runs.length === 0) return null;
  const rows = result.runs.map((run) => [whole(run.rate), whole(run.messages_per_second),
    run.latency_us ? time(run.latency_us.p50) : "-", run.latency_us ? time(run.latency_us.p99) : "-",
    run.latency_us ? time(run.latency_us.p99_9) : "-",
    make("td", { class: `text ${run.held ? "good" : "bad"}` }, run.held ? "held" : run.reason)]);
  return make("section", { class: "card" }, make("h2", {}, "Rates that were tried"),
    table(["messages/s", "acknowledged/s", "p50", "p99", "p99.9", ""], rows));
}

function pairs(entries) {
  const list = make("dl");
  for (const [name, value] of entries) {
    if (!some(value) || value === "" || (Array.isArray(value) && value.length === 0)) continue;
    list.append(make("dt", {}, name), make("dd", {}, Array.isArray(value) ? value.join(", ") : String(value)));
  }
  return list;
}

function repeat() {
  const place = result.environment || {};
  const data = place.data;
  return make("section", { class: "card" }, make("h2", {}, "To repeat this run"),
    make("pre", {}, make("code", {}, place.command_line || "")),
    pairs([["began", place.started_at], ["version", `${result.version}, commit ${result.git}`], ["kernel", result.kernel],
      ["CPU", `${result.cpu}, ${result.cores} online`], ["governor", place.cpu_governor],
      ["memory", place.memory_bytes ? `${(place.memory_bytes / 2 ** 30).toFixed(1)} GiB` : null], ["load before", place.load_before],
      ["data", data ? `${data.file_system} on ${data.device} (${data.options})` : null],
      ["broker settings", place.broker_settings],
      ...Object.entries(result.config || {}).map(([name, value]) => [name.replaceAll("_", " "), typeof value === "object" && value !== null && !Array.isArray(value) ? JSON.stringify(value) : value])]));
}

function lay() {
  const place = result.environment || {};
  document.getElementById("head").append(make("h1", {}, `equeue bench ${result.command}`),
    make("p", { class: "sub" }, [place.started_at, result.git, result.cpu].filter(Boolean).join(" · ")));
  const failed = Object.entries(result.errors || {}).map(([code, count]) => `failed: ${whole(count)} ${code}`);
  const notices = [...(result.warnings || []), ...failed].map((text) => make("p", { class: "notice", role: "note" }, text));
  const parts = [figures(), ...notices, charts(), runsTable(), percentileTable(), repeat()];
  document.getElementById("main").replaceChildren(...parts.filter(Boolean));
  document.getElementById("foot").append("Each latency counts from when its message was due, so that a generator that fell behind hides nothing.");
}

lay();
