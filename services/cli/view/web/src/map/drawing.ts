// The map as cytoscape draws it. Positions come from the layout's worker; what has not changed is left alone.
import cytoscape from "cytoscape";
import type { Edge, Graph } from "../api";
import type { Asked, Found } from "./layout";

const MANY = 800; // edges from which on they are drawn plainly, so that moving stays fluid
const APART = new Set(["outside", "addresses"]); // no place of their own: each stands for itself
const LABELS = 24; // pairs whose trouble is written at them: the worst
const LEVELS = ["--edge", "--minor", "--slow", "--failed"];

/** Edges between the same two are drawn as one, by the worst of them. */
export function pair(edge: { source: string; destination: string }): string {
  return `${edge.source}\n${edge.destination}`;
}

function pairs(edges: Edge[]): Map<string, Edge[]> {
  const found = new Map<string, Edge[]>();
  for (const edge of edges) {
    const key = pair(edge);
    const same = found.get(key);
    if (same) same.push(edge);
    else found.set(key, [edge]);
  }
  return found;
}

function style(many: boolean): cytoscape.StylesheetJson {
  const of = getComputedStyle(document.documentElement);
  const color = (name: string) => of.getPropertyValue(name).trim();
  const levels = LEVELS.flatMap((name, level) => [
    { selector: `edge[level = ${level}]`, style: { "line-color": color(name), "target-arrow-color": color(name), "z-index": level } },
    ...(level ? [{ selector: `node[level = ${level}]`, style: { "border-color": color(name), "border-width": 2 } }] : []),
  ]);
  return [
    {
      selector: "node",
      style: {
        label: "data(label)", shape: "round-rectangle", height: 32, "text-valign": "center", "font-size": 14,
        "font-family": "system-ui, sans-serif", color: color("--text"), "background-color": color("--node"), "border-width": 1,
        "border-color": color("--line"), "min-zoomed-font-size": 4, "transition-duration": 0,
      },
    },
    { selector: "node[width]", style: { width: "data(width)" } },
    {
      selector: ":parent",
      style: {
        "background-color": color("--place"), "background-opacity": 1, "border-width": 1, "border-color": color("--line"), padding: "12px",
        "text-valign": "top", "text-margin-y": -3, "font-size": 13, color: color("--muted"), "text-transform": "none",
      },
    },
    { selector: "node[?folded]", style: { "font-weight": 600, height: 40, "background-color": color("--place"), "border-style": "double", "border-width": 4 } },
    {
      selector: "edge",
      style: many
        ? { "curve-style": "haystack", "haystack-radius": 0, width: 1, opacity: 0.5 }
        : {
            "curve-style": "bezier", width: "data(width)", "target-arrow-shape": "triangle", "arrow-scale": 0.85, label: "data(label)",
            "font-size": 12.5, "font-family": "system-ui, sans-serif", color: color("--text"), "text-background-color": color("--ground"),
            "text-background-opacity": 0.88, "text-background-padding": "2px", "text-rotation": "autorotate", "min-zoomed-font-size": 5,
          },
    },
    ...(levels as cytoscape.StylesheetJson),
    { selector: "edge[level = 0]", style: { opacity: many ? 0.5 : 0.75 } },
    { selector: "edge[level > 0]", style: { opacity: 1, ...(many ? { width: 1.6 } : {}) } },
    { selector: ".dim", style: { opacity: 0.18 } },
    { selector: "edge.chosen", style: { "line-color": color("--accent"), "target-arrow-color": color("--accent"), opacity: 1, width: 4, "z-index": 9 } },
    { selector: "node.chosen", style: { "border-color": color("--accent"), "border-width": 3 } },
  ] as cytoscape.StylesheetJson;
}

const widthOf = (label: string) => Math.max(70, label.length * 8 + 20);

export class Drawing {
  private cy: cytoscape.Core;
  private worker = new Worker("/layout.js", { type: "module" });
  private number = 0;
  private laid = "";
  private many = false;
  private graph?: Graph;
  private chosen = "";

  constructor(
    private box: HTMLElement,
    private chose: (key: string) => void,
    private fold: (place: string) => void,
  ) {
    this.cy = this.made(false);
    this.worker.onmessage = ({ data }: MessageEvent<Found>) => data.number === this.number && this.stand(data.positions);
  }

  private made(many: boolean): cytoscape.Core {
    const cy = cytoscape({
      container: this.box, style: style(many), minZoom: 0.05, maxZoom: 3, boxSelectionEnabled: false,
      textureOnViewport: many, hideLabelsOnViewport: many, pixelRatio: many ? 1 : "auto", autounselectify: true,
    } as cytoscape.CytoscapeOptions);
    cy.on("tap", "edge", ({ target }) => this.chose(target.id()));
    cy.on("tap", "node:childless", ({ target }) => target.data("folded") ? this.fold(target.data("place")) : this.chose(target.id()));
    cy.on("tap", ({ target }) => target === cy && this.chose(""));
    cy.on("dbltap", ":parent", ({ target }) => this.fold(target.data("label")));
    return cy;
  }

  /** Draw it: at once where everything stands already, else when the layout is there. */
  show(graph: Graph): void {
    this.graph = graph;
    const nodes = graph.nodes.map(({ id, place, label }) => ({ id, place: APART.has(place) ? "" : place, width: widthOf(label) }));
    const edges = [...pairs(graph.edges).keys()];
    const same = JSON.stringify([nodes.map(({ id }) => id).sort(), edges.length > MANY ? 0 : [...edges].sort()]);
    if (same === this.laid) return this.draw({});
    this.laid = same;
    this.worker.postMessage({ number: ++this.number, nodes, edges: edges.map((key) => key.split("\n") as [string, string]) } satisfies Asked);
  }

  private draw(positions: Found["positions"]): void {
    const graph = this.graph!;
    const grouped = pairs(graph.edges);
    const many = grouped.size > MANY;
    if (many !== this.many) {
      this.cy.destroy();
      this.cy = this.made(many);
      this.many = many;
    }
    const wanted = new Map<string, cytoscape.ElementDefinition>();
    for (const node of graph.nodes) {
      const parent = many || node.folded || APART.has(node.place) ? undefined : `place:${node.place}`;
      if (parent) wanted.set(parent, { group: "nodes", data: { id: parent, label: node.place, level: 0 } });
      wanted.set(node.id, { group: "nodes", data: { ...node, width: widthOf(node.label), parent }, position: positions[node.id] });
    }
    let labelled = 0;
    for (const [key, edges] of grouped) {
      const level = Math.max(...edges.map((edge) => edge.level));
      const worst = edges.find((edge) => edge.level === level)!;
      const flows = edges.reduce((sum, edge) => sum + edge.flows, 0);
      const data = { id: key, source: worst.source, target: worst.destination, level, width: 1 + Math.min(3, Math.log10(flows + 1)) * (grouped.size > LABELS * 4 ? 0.4 : 1), label: level && labelled++ < LABELS ? worst.trouble : "" };
      wanted.set(key, { group: "edges", data });
    }
    this.cy.batch(() => {
      this.cy.elements().forEach((element) => void (wanted.has(element.id()) || element.remove()));
      const fresh: cytoscape.ElementDefinition[] = [];
      for (const [id, element] of wanted) {
        const there = this.cy.getElementById(id);
        if (there.empty() || (there.isNode() && there.data("parent") !== element.data.parent)) {
          there.remove();
          fresh.push(element);
          continue;
        }
        if (there.data("level") !== element.data.level || there.data("label") !== element.data.label) there.data(element.data);
        if (element.position) there.position(element.position);
      }
      this.cy.add(fresh);
    });
    this.choose(this.chosen);
  }

  private stand(positions: Found["positions"]): void {
    const at = Object.values(positions);
    const extent = (of: number[]) => Math.max(...of) - Math.min(...of) + 120;
    const flat = (extent(at.map(({ x }) => x)) / extent(at.map(({ y }) => y))) * (this.box.clientHeight / Math.max(this.box.clientWidth, 1));
    for (const each of at) each.y *= Math.min(Math.max(flat, 1), 1.7); // what is flat uses the height that there is
    this.draw(positions);
    this.fit();
    this.box.dataset.laid = String(this.number);
  }

  /** All of it, no larger than it is read best. */
  fit(): void {
    this.cy.resize();
    this.cy.fit(undefined, 24);
    if (this.cy.zoom() > 1.15) this.cy.zoom(1.15).center();
  }

  /** Bring out an edge, or a node with what it talks to; all of it where that is empty. */
  choose(key: string): void {
    this.chosen = key;
    this.cy.batch(() => {
      this.cy.elements().removeClass("dim chosen");
      const chosen = key ? this.cy.getElementById(key) : this.cy.collection();
      if (chosen.empty()) return;
      const near = chosen.union((chosen.isNode() ? chosen.neighborhood() : (chosen as cytoscape.EdgeCollection).connectedNodes()) as cytoscape.CollectionReturnValue);
      this.cy.elements().not(near).not(":parent").addClass("dim");
      chosen.addClass("chosen");
    });
  }

  zoom(by: number): void {
    this.cy.zoom({ level: this.cy.zoom() * by, renderedPosition: { x: this.cy.width() / 2, y: this.cy.height() / 2 } });
  }

  pan(x: number, y: number): void {
    this.cy.panBy({ x, y });
  }

  recolor(): void {
    this.cy.style(style(this.many));
  }

  destroy(): void {
    this.worker.terminate();
    this.cy.destroy();
  }
}
