// Lanes of bars on one axis of time: the wheel zooms, dragging moves.
import { useRef, useState } from "preact/hooks";
import type { Lane } from "./api";

const HEIGHT = 20;
const LEFT = 128;
const ORDER = ["record", "dns lookup", "connect", "tls handshake", "exchange", "request transfer", "server wait", "response transfer", "sent again", "stalled"];

/** A duration on the axis. What is said of connections comes from the server. */
function tick(ns: number): string {
  for (const [unit, size] of [["s", 1e9], ["ms", 1e6], ["µs", 1e3]] as const) if (Math.abs(ns) >= size) return `${+(ns / size).toPrecision(4)} ${unit}`;
  return `${Math.round(ns)} ns`;
}

function ticks(from: number, to: number): number[] {
  const rough = (to - from) / 7;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((each) => each * power).find((each) => each >= rough)!;
  const found = [];
  for (let at = Math.ceil(from / step) * step; at <= to; at += step) found.push(at);
  return found;
}

export function Axis({ lanes, lasted, height = HEIGHT }: { lanes: Lane[]; lasted: number; height?: number }) {
  const [[from, to], setSeen] = useState([0, lasted]);
  const [said, setSaid] = useState("");
  const box = useRef<SVGSVGElement>(null);
  const held = useRef<number>();
  const width = 1200;
  const scale = (ns: number) => LEFT + ((ns - from) / (to - from)) * (width - LEFT - 12);
  const zoom = (by: number, about = (from + to) / 2) => {
    const wide = Math.min(lasted * 1.02, Math.max(1000, (to - from) * by));
    const begin = Math.max(-lasted * 0.01, Math.min(about - (about - from) * (wide / (to - from)), lasted * 1.01 - wide));
    setSeen([begin, begin + wide]);
  };
  const at = (event: MouseEvent) => {
    const { left, width: wide } = box.current!.getBoundingClientRect();
    return from + ((((event.clientX - left) / wide) * width - LEFT) / (width - LEFT - 12)) * (to - from);
  };
  const keys = (event: KeyboardEvent) => {
    const move = { ArrowLeft: -0.2, ArrowRight: 0.2 }[event.key];
    if (move) setSeen([from + move * (to - from), to + move * (to - from)]);
    else if (event.key === "+" || event.key === "-") zoom(event.key === "+" ? 0.6 : 1.6);
    else if (event.key === "0") setSeen([0, lasted]);
    else return;
    event.preventDefault();
  };
  let y = 26;
  const drawn = lanes.map((lane) => {
    const kinds = [...new Set(lane.bars.map((bar) => bar.kind))].sort((one, other) => ORDER.indexOf(one) - ORDER.indexOf(other));
    const top = y;
    y += 20 + kinds.length * height + 10;
    return { lane, kinds, top };
  });
  return (
    <figure class="axis">
      <div class="zoom" role="group" aria-label="zoom">
        <button aria-label="zoom in" onClick={() => zoom(0.5)}>+</button>
        <button aria-label="zoom out" onClick={() => zoom(2)}>−</button>
        <button onClick={() => setSeen([0, lasted])}>all</button>
      </div>
      <svg
        ref={box}
        viewBox={`0 0 ${width} ${y}`}
        tabIndex={0}
        role="group"
        aria-label="time axis; + and - zoom, arrows move, 0 shows all"
        onKeyDown={keys}
        onWheel={(event) => (event.preventDefault(), zoom(event.deltaY > 0 ? 1.25 : 0.8, at(event)))}
        onPointerDown={(event) => (held.current = at(event))}
        onPointerMove={(event) => {
          if (held.current === undefined || !event.buttons) return;
          const by = held.current - at(event);
          setSeen([from + by, to + by]);
        }}
        onPointerUp={() => (held.current = undefined)}
      >
        {ticks(from, to).map((each) => (
          <g key={each}>
            <line class="tick" x1={scale(each)} x2={scale(each)} y1={20} y2={y} />
            <text class="tick" x={scale(each)} y={13} text-anchor="middle">{each ? `+${tick(each)}` : "0"}</text>
          </g>
        ))}
        {drawn.map(({ lane, kinds, top }) => (
          <g key={lane.end}>
            <text class="lane" x={0} y={top + 13}>{lane.end} <tspan class="who">{lane.name}</tspan>{lane.left_out ? ` (${lane.left_out} more)` : ""}</text>
            {kinds.map((kind, row) => (
              <g key={kind}>
                <text class="kind" x={0} y={top + 20 + row * height + height / 2 + 4}>{kind}</text>
                {lane.bars.filter((bar) => bar.kind === kind && bar.end_ns >= from && bar.begin_ns <= to).map((bar, number) => {
                  const left = Math.max(scale(bar.begin_ns), LEFT - 2);
                  const wide = Math.max(Math.min(scale(bar.end_ns), width) - left, 3);
                  return (
                    <rect key={number} class={`bar ${kind.replaceAll(" ", "-")}`} x={left} y={top + 20 + row * height + 3} width={wide} height={height - 6} rx={2} onMouseEnter={() => setSaid(bar.text)}>
                      <title>{bar.text}</title>
                    </rect>
                  );
                })}
              </g>
            ))}
          </g>
        ))}
      </svg>
      <figcaption>{said || "point at a bar to read it; the wheel zooms, dragging moves"}</figcaption>
    </figure>
  );
}
