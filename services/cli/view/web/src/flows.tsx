// Records as `wirespan tap -o table` shows them: searched on the server, ordered here, live until somebody pauses.
import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import type { Flows as Answer, Row } from "./api";
import { ask } from "./api";
import { Mark, Rows } from "./rows";
import { type Place, asked, change, go } from "./url";

const MOST = 5000;

/** An outcome that failed and a verdict that names a trouble stand out; nothing else does. */
function marked(column: string, cell: string, level: number): string {
  const told = (column === "outcome" && level === 3) || (column === "verdict" && cell !== "ok" && cell !== "-");
  return told ? `level-${level}` : "";
}

const DATED = 12;
const DAY = 11;

/** What the server has, and then only what is new. */
function useFlows(query: string, version: number): { found?: Answer; error: string } {
  const [shown, setShown] = useState<{ found?: Answer; error: string }>({ error: "" });
  const held = useRef<{ query: string; found: Answer }>();
  const asking = useRef<{ query: string; again: boolean }>();
  useEffect(() => {
    if (asking.current?.query === query) {
      asking.current.again = true;
      return;
    }
    const go = async () => {
      const mine = { query, again: false };
      asking.current = mine;
      const before = held.current?.query === query ? held.current.found : undefined;
      try {
        const news = await ask<Answer>(`flows?${query}${before ? `&after=${before.last}` : ""}`);
        if (asking.current !== mine) return;
        const found = before ? { ...news, rows: [...before.rows, ...news.rows].slice(-MOST), left_out: before.left_out + news.left_out + Math.max(0, before.rows.length + news.rows.length - MOST) } : news;
        held.current = { query, found };
        setShown({ found, error: "" });
      } catch (error) {
        if (asking.current !== mine) return;
        setShown((old) => ({ found: old.found, error: (error as Error).message }));
      }
      asking.current = undefined;
      if (mine.again) void go();
    };
    void go();
  }, [query, version]);
  return shown;
}

export function open(row: Row, here: Place): void {
  go({ view: "connection", flow: row.flow, q: here.q ?? "", since: here.since ?? "", until: here.until ?? "" });
}

export function Flows({ here, version }: { here: Place; version: number }) {
  const { found, error } = useFlows(asked(here), version);
  const [selected, setSelected] = useState(-1);
  const by = Number(here.by ?? 0);
  const up = here.order === "up";
  const rows = useMemo(() => {
    if (!found) return [];
    const compare = found.numeric[by]
      ? (one: Row, other: Row) => one.order[by] - other.order[by] || one.n - other.n
      : (one: Row, other: Row) => one.cells[by].localeCompare(other.cells[by]) || one.n - other.n;
    const sorted = [...found.rows].sort(compare);
    return up ? sorted : sorted.reverse();
  }, [found, by, up]);
  const chosen = rows[selected];
  // A day that all records have in common is said once.
  const day = rows[0]?.cells[0].length > DATED ? rows[0].cells[0].slice(0, DAY) : "";
  const common = day && rows.every((row) => row.cells[0].startsWith(day)) ? day : "";
  const sort = (column: number) => change({ by: String(column), order: by === column && !up ? "up" : "" }, { replace: true });
  return (
    <div class={day && !common ? "flows dated" : "flows"}>
      <p class="note">
        {found && <>{rows.length.toLocaleString("en")} records{common && ` of ${common.trim()}`}{found.left_out ? `, ${found.left_out.toLocaleString("en")} earlier ones left out: search for fewer` : ""}</>}
        {error && <span class="error" role="alert"> {error}</span>}
      </p>
      <Rows
        label="flows"
        count={rows.length}
        height={26}
        columns={(found?.columns.length ?? 0) + 1}
        selected={chosen ? selected : -1}
        onSelect={setSelected}
        onOpen={(at) => open(rows[at], here)}
        head={
          <div class="row head" role="row">
            <span role="columnheader"><span class="unseen">trouble</span></span>
            {found?.columns.map((name, column) => (
              <span key={name} role="columnheader" class={found.numeric[column] && column ? "number" : ""} aria-sort={by === column ? (up ? "ascending" : "descending") : "none"}>
                <button onClick={() => sort(column)}>{name}{by === column ? (up ? " ↑" : " ↓") : ""}</button>
              </span>
            ))}
          </div>
        }
        render={(at) => {
          const row = rows[at];
          return (
            <>
              <span role="cell"><Mark level={row.level} /></span>
              {row.cells.map((cell, column) => (
                <span key={column} role="cell" class={found!.numeric[column] && column ? "number" : marked(found!.columns[column], cell, row.level)} title={cell}>
                  {column === 1 ? <a href={`/?view=connection&flow=${row.flow}`} tabIndex={-1}>{cell}</a> : column ? cell : cell.slice(common.length)}
                </span>
              ))}
            </>
          );
        }}
      />
    </div>
  );
}
