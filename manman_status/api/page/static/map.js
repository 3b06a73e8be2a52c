// The fleet map: what is shown of the fleet, and what pointer and keys do to it.

import { ask } from "./ask.js";
import { Drawing } from "./drawing.js";
import { Fleet } from "./fleet.js";
import { Grid } from "./grid.js";

const PADDING = 12;
const WHY_AFTER_MS = 120;

export class FleetMap {
  constructor() {
    this.pane = document.getElementById("map");
    this.canvas = document.getElementById("cells");
    this.tip = document.getElementById("tip");
    this.told = document.getElementById("told");
    this.form = document.getElementById("filter");
    this.shown = document.getElementById("shown");
    // As high as all of the grid, so that there is something to scroll.
    this.space = document.createElement("div");
    this.space.className = "space";
    this.pane.append(this.space);
    this.fleet = new Fleet();
    this.drawing = new Drawing(this.canvas);
    this.chosen = -1;
    this.what = "";
    this.listen();
    this.fit();
    this.fleet.start();
  }

  listen() {
    const { pane, fleet } = this;
    fleet.addEventListener("load", () => {
      this.lay();
      fleet.narrow(this.filter);
    });
    fleet.addEventListener("change", () => (this.filter.health ? this.lay() : this.showAgain()));
    pane.addEventListener("scroll", () => this.show(), { passive: true });
    pane.addEventListener("pointermove", (event) => this.choose(this.under(event), false));
    pane.addEventListener("pointerleave", () => this.choose(-1, false));
    pane.addEventListener("blur", () => this.choose(-1, false));
    pane.addEventListener("click", (event) => this.open(this.under(event)));
    pane.addEventListener("keydown", (event) => this.key(event));
    this.form.addEventListener("submit", (event) => event.preventDefault());
    this.form.addEventListener("input", () => {
      this.lay({ keepUrl: false });
      fleet.narrow(this.filter);
    });
    new ResizeObserver(() => this.fit()).observe(pane);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
      this.drawing.takeColours();
      this.show();
    });
  }

  get filter() {
    return Object.fromEntries([...new FormData(this.form)].filter(([, value]) => value));
  }

  fit() {
    this.drawing.resize(this.pane.clientWidth - 2 * PADDING, this.pane.clientHeight);
    this.canvas.style.width = `${this.drawing.width}px`;
    this.canvas.style.height = `${this.drawing.height}px`;
    this.lay();
  }

  // What of the fleet is shown, and where. The chosen worker stays chosen where it is still shown.
  lay({ keepUrl = true } = {}) {
    const { fleet, filter } = this;
    const chosen = this.idAt(this.chosen);
    if (!keepUrl) {
      const query = `?${new URLSearchParams(filter)}`;
      history.replaceState(null, "", query === "?" ? location.pathname : query);
    }
    const groups = fleet.groups
      .filter(({ name }) => !filter.group || name === filter.group)
      .map(({ name, first, count }) => ({
        name,
        cells: Array.from({ length: count }, (_, offset) => first + offset).filter(
          (index) => !filter.health || fleet.health[index] === filter.health,
        ),
      }))
      .filter(({ cells }) => cells.length);
    this.grid = new Grid(groups, this.drawing.width, this.pane.clientHeight - 2 * PADDING);
    this.places = groups.flatMap(({ cells }) => cells);
    this.space.style.height = `${this.grid.height + 2 * PADDING}px`;
    this.chosen = chosen === undefined ? -1 : this.places.indexOf(fleet.byId.get(chosen));
    this.pane.classList.toggle("blind", fleet.state === "blind");
    const all = fleet.ids.length.toLocaleString("en");
    const some = this.grid.count.toLocaleString("en");
    const groupsLeft = fleet.moreGroups.toLocaleString("en");
    const more = fleet.moreGroups ? `, and ${groupsLeft} more groups` : "";
    const workers = some === all ? `${all} workers` : `${some} of ${all} workers`;
    this.shown.textContent = workers + (this.notDrawn() || more);
    this.showAgain();
  }

  // How many more there are than the map draws; of a filter it is not known.
  notDrawn() {
    const { fleet } = this;
    if (!fleet.isPart) return "";
    const all = Number(document.getElementById("bar").dataset.workers ?? 0);
    const more = fleet.isNarrow ? 0 : all - fleet.ids.length;
    const number = more > 0 ? more.toLocaleString("en") : "some";
    return `, and ${number} more that are not drawn: choose a group or a health`;
  }

  // Nobody has another place, and some another health.
  showAgain() {
    this.show();
    this.tellAnew();
  }

  show() {
    this.frame ??= requestAnimationFrame(() => {
      this.frame = undefined;
      const top = this.pane.scrollTop - PADDING;
      if (this.grid) this.drawing.draw(this.grid, this.fleet, top, this.chosen);
    });
  }

  // The place under the pointer, or -1.
  under({ clientX, clientY }) {
    if (!this.grid) return -1;
    const box = this.canvas.getBoundingClientRect();
    return this.grid.at(clientX - box.left, clientY - box.top + this.pane.scrollTop - PADDING);
  }

  idAt(place) {
    return place < 0 ? undefined : this.fleet.ids[this.places[place]];
  }

  choose(place, byKey) {
    if (place === this.chosen) return;
    this.chosen = place;
    this.show();
    this.tell(byKey);
  }

  // What is known of the chosen worker, and a little later why.
  tell(byKey) {
    clearTimeout(this.asking);
    const { chosen } = this;
    this.what = this.whatIs(chosen);
    this.tip.hidden = chosen < 0;
    this.pane.classList.toggle("over", chosen >= 0);
    if (chosen < 0) return;
    const strong = document.createElement("strong");
    strong.textContent = this.what;
    this.tip.replaceChildren(strong);
    this.placeTip(chosen);
    this.asking = setTimeout(() => this.tellWhy(this.what, byKey), WHY_AFTER_MS);
  }

  // What is told may be over, or be of a worker that is no longer shown or elsewhere.
  tellAnew() {
    if (this.whatIs(this.chosen) !== this.what) this.tell(false);
    else if (this.chosen >= 0) this.placeTip(this.chosen);
  }

  whatIs(place) {
    const index = this.places?.[place];
    if (index === undefined) return "";
    return `Worker ${this.fleet.ids[index]}: ${this.fleet.health[index]}`;
  }

  async tellWhy(what, byKey) {
    const why = await ask(`/page/workers/${this.idAt(this.chosen)}/why`);
    if (why === undefined || what !== this.what) return;
    this.tip.append(Object.assign(document.createElement("span"), { textContent: why }));
    this.placeTip(this.chosen);
    if (byKey) this.told.textContent = `${what}. ${why}`;
  }

  // Below the cell, or above where there is no room.
  placeTip(place) {
    const { x, y } = this.grid.corner(place);
    const { tip, pane, grid } = this;
    const seen = y - pane.scrollTop + PADDING;
    const below = seen + grid.pitch + 6;
    const top = below + tip.offsetHeight < pane.clientHeight ? below : seen - tip.offsetHeight - 6;
    const left = Math.max(4, Math.min(x + PADDING, pane.clientWidth - tip.offsetWidth - 4));
    tip.style.transform = `translate(${left}px, ${top + pane.scrollTop}px)`;
  }

  open(place) {
    if (place >= 0) location.assign(`/workers/${this.idAt(place)}`);
  }

  key(event) {
    const { grid, chosen } = this;
    if (!grid?.count || event.altKey || event.ctrlKey || event.metaKey) return;
    if (event.key === "Enter") return this.open(chosen);
    if (event.key === "Escape") return this.choose(-1, true);
    const band = grid.bandOf(Math.max(chosen, 0));
    const beside = (step) => grid.bands[grid.bands.indexOf(band) + step]?.first ?? chosen;
    const to = {
      ArrowLeft: chosen - 1,
      ArrowRight: chosen + 1,
      ArrowUp: chosen - grid.columns,
      ArrowDown: chosen + grid.columns,
      PageUp: beside(-1),
      PageDown: beside(1),
      Home: 0,
      End: grid.count - 1,
    }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    const place = Math.max(0, Math.min(to, grid.count - 1));
    this.reveal(place);
    this.choose(place, true);
  }

  reveal(place) {
    const top = this.grid.corner(place).y;
    const { pane } = this;
    if (top < pane.scrollTop) pane.scrollTop = top - 2 * PADDING;
    const below = top + this.grid.pitch + 2 * PADDING - pane.clientHeight;
    if (below > pane.scrollTop) pane.scrollTop = below;
  }
}

export const map = new FleetMap();
