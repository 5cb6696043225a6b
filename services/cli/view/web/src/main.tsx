// The page: what is above every view, the keyboard, and which view is shown.
import { render } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import "./app.css";
import type { About } from "./api";
import { useAnswer, useEvents } from "./api";
import { Connection } from "./connection";
import { Flows } from "./flows";
import { Map } from "./map/map";
import { Pipeline } from "./pipeline";
import { Line, step } from "./timeline";
import { Trace } from "./trace";
import { change, follow, go, href, usePlace } from "./url";

const VIEWS = [["", "Map"], ["flows", "Flows"], ["trace", "Traces"], ["pipeline", "Pipeline"]] as const;
const KEYS = [
  ["1 2 3 4", "map, flows, traces, pipeline"], ["/", "search"], ["j k ↑ ↓", "next, previous row"], ["Enter", "open it"],
  ["p", "pause, go on"], ["[ ]", "the stretch of time before, after"], ["a", "all time"], ["t", "light or dark"], ["Esc", "let go of what is chosen"], ["?", "this"],
];
const THEMES = ["auto", "light", "dark"];

function useTheme(): [string, () => void] {
  const [theme, setTheme] = useState(localStorage.getItem("theme") ?? "auto");
  document.documentElement.dataset.theme = theme;
  useEffect(() => {
    const query = matchMedia("(prefers-color-scheme: dark)");
    const changed = () => setTheme((old) => old);
    query.addEventListener("change", changed);
    return () => query.removeEventListener("change", changed);
  }, []);
  const next = () => {
    const to = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length];
    localStorage.setItem("theme", to);
    document.documentElement.dataset.theme = to;
    setTheme(to);
  };
  return [theme, next];
}

function Page() {
  const here = usePlace();
  const view = here.view ?? "";
  const { state, lost } = useEvents();
  const first = useRef(0); // of another run of the server than that nothing here is true any more
  first.current ||= state.begun;
  const { answer: about } = useAnswer<About>("about", 0);
  const [paused, setPaused] = useState<number>();
  const [theme, nextTheme] = useTheme();
  const [help, setHelp] = useState(false);
  const search = useRef<HTMLInputElement>(null);
  const version = paused ?? state.last + (state.complete ? 1 : 0) + state.notes.length;
  const pause = () => setPaused((old) => (old === undefined ? version : undefined));

  useEffect(() => {
    const pressed = (event: KeyboardEvent) => {
      const typing = event.target instanceof HTMLInputElement && event.target.type !== "range";
      if (event.key === "Escape") {
        if (typing) (event.target as HTMLElement).blur();
        setHelp(false);
        if (here.edge) change({ edge: "" });
        else if (view === "connection") history.back();
        return;
      }
      if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
      const keep = { q: here.q ?? "", since: here.since ?? "", until: here.until ?? "" };
      const number = "1234".indexOf(event.key);
      if (number >= 0) go({ view: VIEWS[number][0], ...keep });
      else if (event.key === "/") search.current?.focus();
      else if (event.key === "p") pause();
      else if (event.key === "[") step(here, -1);
      else if (event.key === "]") step(here, 1);
      else if (event.key === "a") change({ since: "", until: "" });
      else if (event.key === "t") nextTheme();
      else if (event.key === "?") setHelp((old) => !old);
      else return;
      event.preventDefault();
    };
    addEventListener("keydown", pressed);
    return () => removeEventListener("keydown", pressed);
  });
  const records = view === "" || view === "flows";
  const status = lost ? "the server is gone" : paused !== undefined ? "paused" : state.complete ? (state.notes.length ? "ended early" : "all read") : "live";
  const find = (event: Event) => {
    event.preventDefault();
    change({ q: search.current!.value.trim(), edge: "" });
  };
  return (
    <div class="frame" onClick={follow}>
      <header>
        <h1 class="name"><a href="/">Wirespan</a></h1>
        <nav aria-label="views">
          {VIEWS.map(([name, title]) => {
            const current = name === view || (view === "connection" && name === "flows");
            return <a key={name} href={href({ view: name, q: here.q, since: here.since, until: here.until })} aria-current={current ? "page" : undefined}>{title}</a>;
          })}
        </nav>
        <span class="source" title={about?.source}>{about?.source}</span>
        <span class={`status ${lost ? "lost" : paused !== undefined ? "paused" : state.complete ? "" : "live"}`} role="status">{status}</span>
        {!state.complete && <button onClick={pause} aria-pressed={paused !== undefined}>{paused === undefined ? "pause" : "go on"}</button>}
        <button onClick={nextTheme} title="light or dark">theme: {theme}</button>
        <button onClick={() => setHelp(!help)} aria-expanded={help}>keys</button>
      </header>
      {records && (
        <section class="asking" aria-label="search and time">
          <form role="search" onSubmit={find}>
            <input ref={search} key={here.q} name="q" defaultValue={here.q} spellcheck={false} autocomplete="off" list="filters" aria-label="search, in the grammar of wirespan tap" placeholder="search as wirespan tap filters: to-service redis slower-than 100ms not port 53" />
            <button>search</button>
            {here.q && <button type="button" onClick={() => change({ q: "" })}>clear</button>}
          </form>
          {state.last >= 0 && <Line here={here} version={version} theme={theme} />}
        </section>
      )}
      <datalist id="filters">{about?.filters.map((name) => <option key={name} value={name} />)}</datalist>
      <main key={state.begun === first.current ? 0 : state.begun}>
        {state.last >= 0 && view === "" && <Map here={here} version={version} theme={theme} />}
        {state.last >= 0 && view === "flows" && <Flows here={here} version={version} />}
        {view === "connection" && <Connection here={here} version={version} />}
        {view === "trace" && <Trace here={here} version={version} />}
        {view === "pipeline" && <Pipeline version={version} />}
      </main>
      {help && <div class="help" role="dialog" aria-label="keys"><h2 class="title">Keys</h2><dl>{KEYS.map(([key, what]) => <><dt><kbd>{key}</kbd></dt><dd>{what}</dd></>)}</dl></div>}
    </div>
  );
}

render(<Page />, document.body);
