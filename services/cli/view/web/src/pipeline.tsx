// How the pipeline is: what `wirespan status` says, and the ledger of a run.
import { useEffect, useState } from "preact/hooks";
import type { Pipeline as Answer } from "./api";
import { useAnswer } from "./api";

const ASK_MS = 5000;

/** When a part of the pipeline has died no record comes, so that it is asked for now and then besides. */
export function Pipeline({ version }: { version: number }) {
  const [times, setTimes] = useState(0);
  useEffect(() => {
    const timer = setInterval(() => document.hidden || setTimes((old) => old + 1), ASK_MS);
    return () => clearInterval(timer);
  }, []);
  const { answer, error } = useAnswer<Answer>("pipeline", version + times);
  if (!answer) return <p class={error ? "error page" : "page"} role={error ? "alert" : "status"}>{error || "…"}</p>;
  const kept: [string, string][] = [
    ["records from", answer.source],
    ["kept", `${answer.records.toLocaleString("en")} records${answer.complete ? ", all there are" : ""}`],
    ["came too fast", answer.left_out ? `${answer.left_out.toLocaleString("en")} messages of the bus were left out` : "none"],
    ["no longer kept", answer.gone ? `${answer.gone.toLocaleString("en")} earlier records: --keep is how many are` : "none"],
  ];
  return (
    <article class="page pipeline">
      {answer.troubles.map((trouble) => <p class="verdict wrong" role="alert"><b>trouble</b> {trouble}</p>)}
      {answer.rows.length > 0 && answer.ok && <p class="verdict fine"><b>all is well</b></p>}
      {answer.notes.map((note) => <p class="verdict wrong"><b>note</b> {note}</p>)}
      <h2 class="title">This page</h2>
      <dl>{kept.map(([name, said]) => <><dt>{name}</dt><dd>{said}</dd></>)}</dl>
      {answer.rows.length > 0 && <><h2 class="title">Pipeline</h2><dl>{answer.rows.map(([name, said]) => <><dt class={name.startsWith(" ") ? "inner" : ""}>{name}</dt><dd>{said}</dd></>)}</dl></>}
      {answer.ledger.length > 0 && (
        <>
          <h2 class="title">Ledger of this run</h2>
          <table>
            <tbody>{answer.ledger.map(([name, number, note]) => <tr><th scope="row" class={name.startsWith(" ") ? "inner" : ""}>{name}</th><td class="number">{number}</td><td>{note}</td></tr>)}</tbody>
          </table>
        </>
      )}
      {!answer.rows.length && !answer.troubles.length && <p class="empty">Files have no pipeline: on a bus, what waits, what is lost and why stands here.</p>}
    </article>
  );
}
