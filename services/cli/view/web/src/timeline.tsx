// What is kept, over time; dragging chooses a stretch of it, which all views then show.
import { useEffect, useRef } from "preact/hooks";
import uPlot from "uplot";
import "uplot/dist/uPlot.min.css";
import type { TimeLine } from "./api";
import { useAnswer } from "./api";
import { type Place, change } from "./url";

const nanoseconds = (seconds: number) => `${Math.round(seconds * 1000)}000000`;
const seconds = (text: string) => Number(text) / 1e9;

function time(at: number, by: number | null): string {
  const whole = new Date(at * 1000);
  const text = whole.toLocaleTimeString("en-GB");
  return by !== null && by < 1 ? `${text}.${String(Math.floor(whole.getMilliseconds() / 100))}` : text;
}

export function choose(since: number, until: number): void {
  change({ since: nanoseconds(since), until: nanoseconds(until) });
}

/** Move the chosen stretch by its own length. */
export function step(here: Place, by: number): void {
  if (!here.since || !here.until) return;
  const [since, until] = [seconds(here.since), seconds(here.until)];
  choose(since + by * (until - since), until + by * (until - since));
}

export function Line({ here, version, theme }: { here: Place; version: number; theme: string }) {
  const { answer } = useAnswer<TimeLine>("time_line", version);
  const box = useRef<HTMLDivElement>(null);
  const plot = useRef<uPlot>();
  const width = answer ? answer.bucket_ns / 1e9 : 0;
  const begin = answer ? answer.begin_unix_ns / 1e9 : 0;

  const there = Boolean(answer?.records.length);
  const shown = useRef({ begin, end: begin });
  shown.current = { begin, end: begin + width * (answer?.records.length ?? 0) };

  // Made once: what comes anew is put into it, so that a stretch can be chosen meanwhile.
  useEffect(() => {
    if (!there) return;
    const color = (name: string) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
    const bars = uPlot.paths.bars!({ size: [0.9, 24] });
    const options: uPlot.Options = {
      width: box.current!.clientWidth,
      height: 58,
      legend: { show: false },
      cursor: { y: false, points: { show: false }, drag: { x: true, y: false, setScale: false } },
      scales: { x: { range: () => [shown.current.begin, shown.current.end] }, y: { range: (_, __, most) => [0, Math.max(most, 1)] } },
      axes: [{ size: 20, space: 90, values: (_, splits, __, ___, by) => splits.map((at) => time(at, by)), stroke: color("--muted"), grid: { show: false }, ticks: { show: false }, font: "11px system-ui" }, { show: false }],
      series: [
        {},
        { paths: bars, fill: color("--bar"), points: { show: false } },
        { paths: bars, fill: color("--failed"), points: { show: false } },
      ],
      hooks: {
        setSelect: [
          (self) => {
            const { left, width: wide } = self.select;
            if (wide > 2) choose(self.posToVal(left, "x"), self.posToVal(left + wide, "x"));
          },
        ],
      },
    };
    plot.current = new uPlot(options, [[], [], []], box.current!);
    const watch = new ResizeObserver(() => plot.current?.setSize({ width: box.current!.clientWidth, height: 58 }));
    watch.observe(box.current!);
    return () => (watch.disconnect(), plot.current?.destroy());
  }, [there, theme]);
  useEffect(() => {
    if (!answer?.records.length) return;
    plot.current?.setData([answer.records.map((_, at) => begin + (at + 0.5) * width), answer.records, answer.troubles]);
  }, [answer, theme]);
  useEffect(() => {
    const line = plot.current;
    if (!line) return;
    const left = here.since ? line.valToPos(seconds(here.since), "x") : 0;
    const right = here.until ? line.valToPos(seconds(here.until), "x") : left;
    line.setSelect({ left, width: right - left, top: 0, height: line.over.clientHeight }, false);
  }, [answer, theme, here.since, here.until]);

  const all = () => change({ since: "", until: "" });
  const count = answer?.records.length ?? 0;
  const last = begin + width * count;
  const slide = (name: "since" | "until") => (event: Event) => {
    const to = begin + width * Number((event.target as HTMLInputElement).value);
    const [since, until] = [here.since ? seconds(here.since) : begin, here.until ? seconds(here.until) : last];
    if (name === "since") choose(Math.min(to, until - width), until);
    else choose(since, Math.max(to, since + width));
  };
  const value = (text: string | undefined, other: number) => (text && width ? Math.round((seconds(text) - begin) / width) : other);
  return (
    <div class="timeline">
      <div class="plot" ref={box} role="img" aria-label="records and troubles over time; drag to choose a stretch" />
      <div class="sliders">
        <label>from <input type="range" min={0} max={count} value={value(here.since, 0)} onChange={slide("since")} /></label>
        <label>to <input type="range" min={0} max={count} value={value(here.until, count)} onChange={slide("until")} /></label>
        <button disabled={!here.since && !here.until} onClick={all}>all time</button>
      </div>
    </div>
  );
}
