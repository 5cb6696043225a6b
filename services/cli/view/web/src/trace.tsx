// The requests of an application's trace, as a waterfall of what became of each on the wire.
import { useState } from "preact/hooks";
import type { Trace as Answer, TraceRow } from "./api";
import { useAnswer } from "./api";
import { Axis } from "./axis";
import { Sentence, Story } from "./connection";
import { Mark, Rows } from "./rows";
import { type Place, go, href } from "./url";

function List({ version }: { version: number }) {
  const { answer, error } = useAnswer<{ traces: TraceRow[] }>("trace", version);
  const [selected, setSelected] = useState(-1);
  const rows = answer?.traces ?? [];
  if (error) return <p class="error page" role="alert">{error}</p>;
  if (answer && !rows.length) return <p class="empty page">No request in what is kept carries the trace context of an application.</p>;
  const names = ["trace", "at", "longest request", "took", "requests", "verdict"];
  return (
    <div class="flows traces">
      <p class="note">{rows.length} traces, the slowest first</p>
      <Rows
        label="traces"
        count={rows.length}
        height={28}
        columns={7}
        selected={selected}
        onSelect={setSelected}
        onOpen={(at) => go({ view: "trace", id: rows[at].trace })}
        head={<div class="row head" role="row"><span role="columnheader"><span class="unseen">trouble</span></span>{names.map((name) => <span role="columnheader">{name}</span>)}</div>}
        render={(at) => {
          const row = rows[at];
          return (
            <>
              <span role="cell"><Mark level={row.level} /></span>
              <span role="cell"><a href={href({ view: "trace", id: row.trace })} tabIndex={-1}>{row.trace}</a></span>
              {[row.at, row.what, row.longest, String(row.requests), row.verdict].map((cell) => <span role="cell" title={cell}>{cell}</span>)}
            </>
          );
        }}
      />
    </div>
  );
}

export function Trace({ here, version }: { here: Place; version: number }) {
  const { answer, error } = useAnswer<Answer>(here.id ? `trace?id=${encodeURIComponent(here.id)}` : null, version);
  if (!here.id) return <List version={version} />;
  if (!answer) return <p class={error ? "error page" : "page"} role={error ? "alert" : "status"}>{error || "…"}</p>;
  return (
    <article class="page connection">
      <h2 class="title">trace {answer.trace}, {answer.begin}</h2>
      {answer.requests.map((told, number) => (
        <section key={number} class={`request depth-${Math.min(told.depth, 6)}`}>
          <h3><a href={href({ view: "connection", flow: told.flow })}>{told.head}</a></h3>
          <Sentence told={told} />
          <Axis lanes={told.lanes} lasted={answer.lasted_ns} height={15} />
          <details><summary>what happened</summary><Story told={told} /></details>
        </section>
      ))}
    </article>
  );
}
