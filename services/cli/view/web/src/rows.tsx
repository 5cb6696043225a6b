// A list of any length of which only what is seen is in the document; arrows and j/k move in it, Enter opens.
import { Virtualizer, elementScroll, observeElementOffset, observeElementRect } from "@tanstack/virtual-core";
import type { ComponentChildren } from "preact";
import { useEffect, useLayoutEffect, useReducer, useRef, useState } from "preact/hooks";

export const MARKS = ["", "△", "▲", "●"];
export const MEANINGS = ["no trouble", "something was sent again, or a verdict", "slow", "failed"];

export function Mark({ level }: { level: number }) {
  return <span class={`mark level-${level}`} role="img" aria-label={MEANINGS[level]} title={MEANINGS[level]}>{MARKS[level]}</span>;
}

interface Props {
  label: string;
  count: number;
  height: number;
  head?: ComponentChildren;
  columns: number;
  selected: number;
  render: (at: number) => ComponentChildren;
  onSelect: (at: number) => void;
  onOpen: (at: number) => void;
}

export function Rows({ label, count, height, head, columns, selected, render, onSelect, onOpen }: Props) {
  const scroller = useRef<HTMLDivElement>(null);
  const [, redraw] = useReducer((n: number) => n + 1, 0);
  const [virtual] = useState(
    () =>
      new Virtualizer<HTMLDivElement, Element>({
        count,
        getScrollElement: () => scroller.current,
        estimateSize: () => height,
        overscan: 10,
        observeElementRect,
        observeElementOffset,
        scrollToFn: elementScroll,
        onChange: () => redraw(0),
      }),
  );
  virtual.setOptions({ ...virtual.options, count });
  useLayoutEffect(() => virtual._didMount(), []);
  useLayoutEffect(() => virtual._willUpdate());
  useEffect(() => {
    if (selected >= 0) virtual.scrollToIndex(selected, { align: "auto" });
  }, [selected]);

  const onKeyDown = (event: KeyboardEvent) => {
    const by = { ArrowDown: 1, j: 1, ArrowUp: -1, k: -1, PageDown: 15, PageUp: -15, Home: -count, End: count }[event.key];
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (by) {
      event.preventDefault();
      onSelect(Math.max(0, Math.min(count - 1, selected + by)));
    } else if (event.key === "Enter" && selected >= 0) {
      onOpen(selected);
    }
  };
  return (
    <div class="rows" role="table" aria-label={label} aria-rowcount={count + 1} aria-colcount={columns}>
      {head && <div class="headed" role="rowgroup">{head}</div>}
      <div class="scroller" role="rowgroup" tabIndex={0} aria-label={`${label}, rows`} ref={scroller} onKeyDown={onKeyDown}>
        <div class="all" role="presentation" style={{ height: `${virtual.getTotalSize()}px` }}>
          {virtual.getVirtualItems().map((item) => (
            <div
              key={item.key}
              role="row"
              aria-rowindex={item.index + 2}
              aria-selected={item.index === selected}
              class={item.index === selected ? "row selected" : "row"}
              style={{ transform: `translateY(${item.start}px)`, height: `${height}px` }}
              onClick={() => (onSelect(item.index), scroller.current?.focus())}
              onDblClick={() => onOpen(item.index)}
            >
              {render(item.index)}
            </div>
          ))}
        </div>
      </div>
    </div>
  );
}
