// One connection as both its ends saw it, and what `wirespan explain` says of it.
import type { Connection as Answer, Told } from "./api";
import { useAnswer } from "./api";
import { Axis } from "./axis";
import { type Place, href } from "./url";

export function Sentence({ told }: { told: Told }) {
  return <p class={`verdict ${told.wrong ? "wrong" : "fine"}`}><b>{told.verdict.replaceAll("_", " ")}</b> {told.sentence}</p>;
}

export function Story({ told }: { told: Told }) {
  return (
    <div class="story">
      <ol>{told.story.map((step) => <li><span class="after">{step.after}</span><span>{step.what}</span></li>)}</ol>
      <dl>
        {told.because.map((line) => <><dt>because</dt><dd>{line}</dd></>)}
        {told.next && <><dt>next</dt><dd>{told.next}</dd></>}
        {Object.entries(told.queries).map(([where, query]) => <><dt>more, {where}</dt><dd><code>{query}</code></dd></>)}
      </dl>
    </div>
  );
}

export function Connection({ here, version }: { here: Place; version: number }) {
  const { answer, error } = useAnswer<Answer>(`connection?flow=${encodeURIComponent(here.flow ?? "")}`, version);
  if (!answer) return <p class={error ? "error page" : "page"} role={error ? "alert" : "status"}>{error || "…"}</p>;
  return (
    <article class="page connection">
      <h2 class="title">{answer.head}</h2>
      <Sentence told={answer} />
      <Axis key={here.flow} lanes={answer.lanes} lasted={answer.lasted_ns} />
      {answer.left_out > 0 && <p class="note">{answer.left_out.toLocaleString("en")} earlier requests left out</p>}
      <Story told={answer} />
      <p class="links">
        <a href={href({ view: "flows", q: here.q, since: here.since, until: here.until })}>flows</a>
        {answer.trace_id && <a href={href({ view: "trace", id: answer.trace_id })}>its trace</a>}
      </p>
    </article>
  );
}
