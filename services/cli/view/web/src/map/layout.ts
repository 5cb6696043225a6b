// Where the map's nodes stand: worked out beside the page, which stays fluid meanwhile.
import { Graph, layout } from "@dagrejs/dagre";
import { forceCollide, forceLink, forceManyBody, forceSimulation, forceX, forceY } from "d3-force";

export interface Asked { number: number; nodes: { id: string; place: string; width: number }[]; edges: [string, string][] }
export interface Found { number: number; positions: Record<string, { x: number; y: number }> }

const LAYERED = 250; // edges up to which the map is drawn in layers, from who asks to who is asked
const TICKS = 220;

function layered({ nodes, edges }: Asked): Found["positions"] {
  const graph = new Graph({ compound: true });
  graph.setGraph({ rankdir: "LR", nodesep: 20, ranksep: 44, marginx: 20, marginy: 20 });
  graph.setDefaultEdgeLabel(() => ({}));
  for (const place of new Set(nodes.map((node) => node.place))) if (place) graph.setNode(`place:${place}`, {});
  for (const node of nodes) {
    graph.setNode(node.id, { width: node.width, height: 32 });
    if (node.place) graph.setParent(node.id, `place:${node.place}`);
  }
  for (const [source, target] of edges) if (source !== target) graph.setEdge(source, target);
  layout(graph);
  return Object.fromEntries(nodes.map(({ id }) => [id, { x: graph.node(id).x, y: graph.node(id).y }]));
}

/** Beyond what layers can show: those that talk attract each other, and each place keeps together. */
function forced({ nodes, edges }: Asked): Found["positions"] {
  const places = [...new Set(nodes.map((node) => node.place))];
  const radius = Math.max(60 * Math.sqrt(nodes.length), 52 * places.length);
  const around = (place: string, way: (angle: number) => number) => radius * way((2 * Math.PI * places.indexOf(place)) / places.length);
  const moving = nodes.map((node) => ({ ...node, x: around(node.place, Math.cos), y: around(node.place, Math.sin) }));
  const places_x = forceX<(typeof moving)[0]>((node) => around(node.place, Math.cos)).strength(0.35);
  const places_y = forceY<(typeof moving)[0]>((node) => around(node.place, Math.sin)).strength(0.35);
  forceSimulation(moving)
    .force("links", forceLink<(typeof moving)[0], { source: string; target: string }>(edges.map(([source, target]) => ({ source, target }))).id((node) => node.id).strength(0.01))
    .force("apart", forceManyBody().strength(-260).distanceMax(600))
    .force("collide", forceCollide(38))
    .force("x", places_x)
    .force("y", places_y)
    .stop()
    .tick(TICKS);
  return Object.fromEntries(moving.map(({ id, x, y }) => [id, { x, y }]));
}

self.onmessage = ({ data }: MessageEvent<Asked>) => {
  let positions: Found["positions"];
  try {
    positions = data.edges.length <= LAYERED ? layered(data) : forced(data);
  } catch {
    positions = forced(data);
  }
  self.postMessage({ number: data.number, positions } satisfies Found);
};
