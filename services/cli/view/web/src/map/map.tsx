// Who talks to whom: drawn, and as a list with the troubles first.
import { useEffect, useMemo, useRef } from "preact/hooks";
import type { Graph, Parts, Worst } from "../api";
import { useAnswer } from "../api";
import { Drawing, pair } from "./drawing";
import { Mark, Rows } from "../rows";
import { type Place, asked, change, href } from "../url";

const SHOWN = ["flows", "outcome", "sent", "received", "max connect", "max response", "mean response", "resent", "protocol"];

function Sentence({ worst, here, ends }: { worst: Worst; here: Place; ends?: boolean }) {
  return (
    <p class="verdict wrong">
      {ends && <>{worst.source} → {worst.destination}<br /></>}
      <b>{worst.verdict.replaceAll("_", " ")}</b> {worst.sentence}{worst.more ? ` (and ${worst.more} more)` : ""}{" "}
      <a href={href({ ...here, view: "connection", edge: "", fold: "", flow: worst.flow })}>look</a>
    </p>
  );
}

function Details({ chosen, here, query, version }: { chosen: string; here: Place; query: string; version: number }) {
  const [source, destination] = chosen.split("\n");
  const ends = new URLSearchParams({ source, destination: destination ?? "" });
  const { answer } = useAnswer<Parts>(destination ? `edge?${query}&${ends}` : null, version);
  if (!answer || !destination) return null;
  return (
    <section class="details" aria-label="chosen edge">
      {answer.parts.map((part) => (
        <div key={`${part.port} ${part.transport}`}>
          <h2><Mark level={part.level} /> {part.source} → {part.destination}{part.port ? `:${part.port}` : ""}</h2>
          {part.worst?.wrong && <Sentence worst={part.worst} here={here} />}
          <dl>
            <dt>rate</dt><dd>{part.rate}</dd>
            {SHOWN.filter((name) => part.words[name] !== "-").map((name) => <><dt>{name}</dt><dd>{part.words[name]}</dd></>)}
          </dl>
          <a class="button" href={href({ ...here, view: "flows", edge: "", fold: "", q: part.query })}>its flows</a>
        </div>
      ))}
      {answer.left_out > 0 && <p class="note">{answer.left_out.toLocaleString("en")} more ports and transports, with less trouble</p>}
    </section>
  );
}

export function Map({ here, version, theme }: { here: Place; version: number; theme: string }) {
  const fold = here.fold ?? "auto";
  const query = [asked(here), ...fold.split(",").map((each) => `fold=${encodeURIComponent(each)}`)].filter(Boolean).join("&");
  const { answer: graph, error } = useAnswer<Graph>(`map?${query}`, version);
  const box = useRef<HTMLDivElement>(null);
  const drawing = useRef<Drawing>();
  const latest = useRef<Graph>();
  latest.current = graph;
  const chosen = here.edge ?? "";

  const toggle = (name: string) => {
    const now = new Set(latest.current?.folded);
    if (!now.delete(name)) now.add(name);
    change({ fold: [...now].join(",") || "none", edge: "" });
  };
  useEffect(() => {
    drawing.current = new Drawing(box.current!, (edge) => change({ edge }), toggle);
    const watch = new ResizeObserver(() => drawing.current?.fit());
    watch.observe(box.current!);
    return () => (watch.disconnect(), drawing.current?.destroy());
  }, []);
  useEffect(() => {
    if (!graph) return;
    const later = setTimeout(() => drawing.current?.show(graph), 30); // the list is there first
    return () => clearTimeout(later);
  }, [graph]);
  useEffect(() => drawing.current?.choose(chosen), [chosen]);
  useEffect(() => drawing.current?.recolor(), [theme]);

  const edges = useMemo(() => {
    if (!chosen || !graph) return graph?.edges ?? [];
    const of = graph.edges.filter((edge) => edge.source === chosen || edge.destination === chosen);
    return of.length ? of : graph.edges;
  }, [graph, chosen]);
  const at = chosen ? edges.findIndex((edge) => pair(edge) === chosen) : -1;
  const keys = (event: KeyboardEvent) => {
    const step = ({ ArrowLeft: [60, 0], ArrowRight: [-60, 0], ArrowUp: [0, 60], ArrowDown: [0, -60] } as Record<string, [number, number]>)[event.key];
    if (step) drawing.current?.pan(...step);
    else if (event.key === "+" || event.key === "-") drawing.current?.zoom(event.key === "+" ? 1.25 : 0.8);
    else if (event.key === "0") drawing.current?.fit();
    else return;
    event.preventDefault();
  };
  const totals = graph?.totals;
  return (
    <div class="map">
      <div class="canvas">
        <div class="drawing" ref={box} tabIndex={0} role="application" aria-label="map; arrows move it, + and - zoom, 0 shows all; the list beside it says the same" onKeyDown={keys} />
        {error && <p class="error" role="alert">{error}</p>}
        {graph && !graph.edges.length && <p class="empty">No connections in what is asked for. A connection is told when it has ended, a long one now and then before.</p>}
        <div class="folds" role="group" aria-label="namespaces, folded or not">
          {graph?.namespaces.map((place) => {
            const folded = graph.folded.includes(place);
            return <button key={place} aria-pressed={folded} title={folded ? `unfold ${place}` : `fold ${place}`} onClick={() => toggle(place)}>{folded ? "▸" : "▾"} {place}</button>;
          })}
          {(graph?.namespaces.length ?? 0) > 1 && <button onClick={() => change({ fold: graph!.folded.length ? "none" : graph!.namespaces.join(",") })}>{graph!.folded.length ? "unfold all" : "fold all"}</button>}
        </div>
      </div>
      <aside>
        <p class="totals" aria-live="off">
          {totals && <><b>{totals.flows}</b>, {totals.bytes}, <span class={totals.failed === "0" ? "" : "level-3"}>{totals.failed} failed</span>, <span class={totals.resent === "0" ? "" : "level-1"}>{totals.resent} resent</span></>}
        </p>
        {!chosen && graph?.worst?.wrong && <section class="details" aria-label="the worst"><Sentence worst={graph.worst} here={here} ends /></section>}
        <Details chosen={chosen} here={here} query={query} version={version} />
        <Rows
          label="pairs, troubles first"
          count={edges.length}
          height={46}
          columns={3}
          selected={at}
          onSelect={(to) => change({ edge: pair(edges[to]) }, { replace: true })}
          onOpen={() => document.querySelector<HTMLAnchorElement>(".details a")?.click()}
          render={(index) => {
            const edge = edges[index];
            return (
              <>
                <span role="cell"><Mark level={edge.level} /></span>
                <span role="cell" class="pair" title={`${edge.source} → ${edge.destination}`}><b>{edge.source}</b><br />→ {edge.destination}{edge.port ? `:${edge.port}` : ""}{edge.transport === "tcp" ? "" : ` ${edge.transport}`}</span>
                <span role="cell" class="said"><em class={`level-${edge.level}`}>{edge.trouble}</em><br />{edge.rate}</span>
              </>
            );
          }}
        />
      </aside>
    </div>
  );
}
