// The server's answers (docs/view.md), and what keeps them fresh.
import { useEffect, useRef, useState } from "preact/hooks";

export interface State {
  begun: number; last: number; records: number; gone: number; left_out: number; complete: boolean; notes: string[];
}
export interface About extends State { source: string; filters: string[] }
export type Level = 0 | 1 | 2 | 3;
export interface Node { id: string; label: string; place: string; folded: boolean; level: Level }
export interface Edge {
  source: string; destination: string; port: number; transport: string; level: Level; flows: number; rate: string; trouble: string;
}
export interface Parts { parts: (Edge & { query: string; words: Record<string, string>; worst: Worst | null })[]; left_out: number }
export interface Worst { flow: string; source: string; destination: string; verdict: string; sentence: string; wrong: boolean; more: number }
export interface Graph {
  namespaces: string[]; folded: string[]; nodes: Node[]; edges: Edge[]; totals: Record<string, string>; worst: Worst | null;
}
export interface TimeLine { begin_unix_ns: number; bucket_ns: number; records: number[]; troubles: number[] }
export interface Row { n: number; flow: string; trace: string; level: Level; cells: string[]; order: number[] }
export interface Flows { columns: string[]; numeric: boolean[]; rows: Row[]; last: number; left_out: number }
export interface Bar { kind: string; begin_ns: number; end_ns: number; text: string }
export interface Lane { end: string; name: string; bars: Bar[]; left_out: number }
export interface Told {
  flow: string; head: string; verdict: string; wrong: boolean; sentence: string; because: string[]; next: string;
  trace_id: string | null; source: string; destination: string; told_by: string;
  story: { after: string; what: string }[]; queries: Record<string, string>;
}
export interface Connection extends Told { begin: string; lasted_ns: number; lanes: Lane[]; left_out: number }
export interface Trace { trace: string; begin: string; lasted_ns: number; requests: (Told & { depth: number; lanes: Lane[] })[] }
export interface TraceRow {
  trace: string; requests: number; longest: string; what: string; at: string; level: Level; verdict: string;
}
export interface Pipeline extends State {
  source: string; rows: [string, string][]; ledger: [string, string, string][]; troubles: string[]; ok: boolean;
}

export async function ask<T>(path: string, signal?: AbortSignal): Promise<T> {
  const response = await fetch(`/api/${path}`, { signal });
  if (response.status === 401) location.assign("/login");
  if (!response.ok) throw new Error((await response.text()).trim() || response.statusText);
  return (await response.json()) as T;
}

/** The latest answer, and why there is no newer one. What is asked anew while an answer is awaited waits for that. */
export function useAnswer<T>(path: string | null, version: number): { answer?: T; error: string; path: string | null } {
  const [found, setFound] = useState<{ answer?: T; error: string; path: string | null }>({ error: "", path: null });
  const asking = useRef<{ path: string; abort: AbortController; again: boolean }>();
  useEffect(() => {
    if (path === null) return;
    if (asking.current?.path === path) {
      asking.current.again = true;
      return;
    }
    asking.current?.abort.abort();
    const go = async () => {
      const mine = { path, abort: new AbortController(), again: false };
      asking.current = mine;
      try {
        const answer = await ask<T>(path, mine.abort.signal);
        if (asking.current === mine) setFound({ answer, error: "", path });
      } catch (error) {
        if (asking.current === mine) setFound((old) => ({ answer: old.path === path ? old.answer : undefined, error: `${(error as Error).message}`, path }));
      }
      if (asking.current !== mine) return;
      asking.current = undefined;
      if (mine.again) void go();
    };
    void go();
  }, [path, version]);
  return found;
}

const NOTHING: State = { begun: 0, last: -1, records: 0, gone: 0, left_out: 0, complete: false, notes: [] };
const RETRY_MS = 3000;

/** What is kept, as the server tells of it; `lost` while it cannot be reached. A tab that nobody sees does not listen: a browser has
 * six connections to a host, for all of its tabs. */
export function useEvents(): { state: State; lost: boolean } {
  const [found, setFound] = useState({ state: NOTHING, lost: false });
  useEffect(() => {
    let source: EventSource | undefined;
    let later: number | undefined;
    const listen = () => {
      clearTimeout(later);
      source?.close();
      if (document.hidden) return;
      source = new EventSource("/api/events");
      source.onmessage = (event) => setFound({ state: JSON.parse(event.data) as State, lost: false });
      source.onerror = () => {
        source?.close();
        setFound((old) => ({ ...old, lost: true }));
        later = setTimeout(again, RETRY_MS);
      };
    };
    // To be asked for the token anew is what an event source cannot tell.
    const again = () => void ask("about").then(listen, () => (later = setTimeout(again, RETRY_MS)));
    document.addEventListener("visibilitychange", listen);
    listen();
    return () => (document.removeEventListener("visibilitychange", listen), clearTimeout(later), source?.close());
  }, []);
  return found;
}
