// The workers of the map as they are now: all of them every few seconds, and what changes in
// between as it happens. A large fleet comes in pieces. What is beyond MOST is not drawn, unless a
// filter leaves fewer.

import { ask } from "./ask.js";
import { Stream } from "./stream.js";

const RELOAD_MS = 3000;
const RELOAD_SHARE = 0.05; // of the time, when a large fleet takes long
const SOON_MS = 300;
const MOST = 100_000;
const ENDED = new Set(["COMPLETE", "CRASHED"]);

export class Fleet extends EventTarget {
  constructor() {
    super();
    this.groups = []; // {name, first, count}
    this.moreGroups = 0; // that are not among them
    this.ids = []; // text, since a number would lose the last digits of a large one
    this.health = [];
    this.status = [];
    this.reason = [];
    this.state = "";
    this.isPart = false; // more workers match than are here
    this.only = {}; // the filter by which they were read, when all are too many
    this.changed = new Map(); // id → the change, while it is newer than what was loaded
    this.byId = new Map();
    this.tookMs = 0;
    this.stream = new Stream(
      "entity=worker",
      (change) => this.hear(change),
      () => this.beginAnew(),
    );
  }

  async start() {
    await this.load();
    this.reloadLater();
    document.addEventListener("visibilitychange", () => document.hidden || this.load());
  }

  reloadLater() {
    const next = async () => {
      try {
        if (!document.hidden) await this.load();
      } finally {
        this.reloadLater();
      }
    };
    setTimeout(next, Math.max(RELOAD_MS, this.tookMs / RELOAD_SHARE));
  }

  async load() {
    if (this.loading) return;
    this.loading = true;
    const begun = performance.now();
    try {
      await this.loadPieces();
    } finally {
      this.loading = false;
      this.tookMs = performance.now() - begun;
    }
    // From where the loaded map stands: nothing that happens in between is missed.
    if (this.revision !== undefined) this.stream.open(`${this.epoch}-${this.revision}`);
  }

  // The first time each piece is shown as it comes; later all at once.
  async loadPieces() {
    const { only } = this;
    const isFirst = !this.ids.length;
    const pieces = [];
    let count = 0;
    for (let after = ""; after !== null && count < MOST; ) {
      const query = new URLSearchParams({ ...only, ...(after && { after }) });
      const piece = await ask(`/page/map.json${query.size ? `?${query}` : ""}`);
      if (piece === undefined) return;
      pieces.push(JSON.parse(piece));
      count += pieces.at(-1).groups.reduce((sum, [, , health]) => sum + health.length, 0);
      after = pieces.at(-1).next;
      if (only !== this.only) return this.loadSoon();
      if (after === null || isFirst || count >= MOST) this.take(pieces);
    }
  }

  get isNarrow() {
    return Object.keys(this.only).length > 0;
  }

  // Another filter: the workers are read by it where not all of them are here.
  narrow(filter) {
    if (!this.isPart && !this.isNarrow) return;
    const asText = (fields) => new URLSearchParams(fields).toString();
    if (asText(filter) === asText(this.only)) return;
    this.only = { ...filter };
    this.loadSoon();
  }

  // What changes while pieces are read is in the first of them or applied again.
  take(pieces) {
    const [{ healths, statuses, reasons, state, revision, epoch }] = pieces;
    const names = (letters, of) =>
      Array.from(letters, (letter) => of[letter.charCodeAt(0) - 97] ?? "unknown");
    this.state = state;
    this.moreGroups = pieces.reduce((sum, { more_groups }) => sum + more_groups, 0);
    this.isPart = pieces.at(-1).next !== null;
    // The revisions of another epoch are not to be compared with this one.
    if (epoch !== this.epoch) this.changed.clear();
    this.epoch = epoch;
    this.revision = revision;
    this.groups = [];
    this.ids = [];
    this.health = [];
    this.status = [];
    this.reason = [];
    const parts = new Map();
    for (const [name, ...part] of pieces.flatMap(({ groups }) => groups)) {
      parts.set(name, [...(parts.get(name) ?? []), part]);
    }
    for (const name of [...parts.keys()].sort()) {
      const first = this.ids.length;
      for (const [ids, health, status, reason] of parts.get(name)) {
        this.ids = this.ids.concat(ids.split(" "));
        this.health = this.health.concat(names(health, healths));
        this.status = this.status.concat(names(status, statuses));
        this.reason = this.reason.concat(names(reason, reasons));
      }
      this.groups.push({ name, first, count: this.ids.length - first });
    }
    this.byId = new Map(this.ids.map((id, index) => [id, index]));
    for (const [id, change] of this.changed) {
      if (change.revision <= revision) this.changed.delete(id);
      else this.apply(id, change);
    }
    this.dispatchEvent(new Event("load"));
  }

  // A backup was restored: what follows counts anew, and the map is read again.
  beginAnew() {
    this.changed.clear();
    this.revision = undefined;
    this.loadSoon();
  }

  hear(data) {
    const [, id] = data.match(/"entity_id":(\d+)/);
    const change = JSON.parse(data);
    // What was loaded knows it already, and maybe more.
    if (change.revision <= this.revision) return;
    this.changed.set(id, change);
    if (this.apply(id, change)) this.dispatchEvent(new Event("change"));
    // Else it may be one of those that are not here.
    else if (!this.isPart && !this.isNarrow) this.loadSoon();
  }

  // False when the worker is not on the map.
  apply(id, { new_status: status, reason }) {
    const index = this.byId.get(id);
    if (index === undefined) return false;
    this.status[index] = status;
    this.reason[index] = reason;
    if (status === "LOST") this.health[index] = "unhealthy";
    else if (ENDED.has(status)) this.health[index] = "terminated";
    else this.health[index] = this.state === "blind" ? "unknown" : "healthy";
    return true;
  }

  loadSoon() {
    this.soon ??= setTimeout(() => {
      this.soon = undefined;
      this.load();
    }, SOON_MS);
  }
}
