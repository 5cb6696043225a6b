// All that a view shows is in its address, so that it can be shared and the browser's own "back" works.
import { useEffect, useState } from "preact/hooks";

export type Place = Record<string, string>;
const MOVED = "wirespan:moved";

export function place(): Place {
  return Object.fromEntries(new URLSearchParams(location.search));
}

/** The address of a place; what is empty is left out. */
export function href(to: Place): string {
  const query = new URLSearchParams(Object.entries(to).filter(([, value]) => value));
  return query.size ? `/?${query}` : "/";
}

export function go(to: Place, { replace = false } = {}): void {
  history[replace ? "replaceState" : "pushState"](null, "", href(to));
  dispatchEvent(new Event(MOVED));
}

/** Change some of the place, keep the rest. */
export function change(some: Place, options = {}): void {
  go({ ...place(), ...some }, options);
}

export function usePlace(): Place {
  const [here, setHere] = useState(place());
  useEffect(() => {
    const moved = () => setHere(place());
    for (const name of [MOVED, "popstate"]) addEventListener(name, moved);
    return () => {
      for (const name of [MOVED, "popstate"]) removeEventListener(name, moved);
    };
  }, []);
  return here;
}

/** A link within the page. */
export function follow(event: MouseEvent): void {
  const link = (event.target as Element).closest("a[href^='/?'], a[href='/']");
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey || event.button) return;
  event.preventDefault();
  go(Object.fromEntries(new URLSearchParams(link.getAttribute("href")!.slice(1))));
}

/** What the views of records have in common: the search and the stretch of time. */
export function asked(here: Place): string {
  const query = new URLSearchParams();
  for (const name of ["q", "since", "until"]) if (here[name]) query.set(name, here[name]);
  return query.toString();
}
