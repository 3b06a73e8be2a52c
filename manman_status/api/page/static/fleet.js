// The workers of the map as they are now: all of them every few seconds, and what changes in between as it happens.

import { ask } from "./ask.js";
import { Stream } from "./stream.js";

const RELOAD_MS = 3000;
const RELOAD_SHARE = 0.05; // of the time, when a large fleet takes long
const SOON_MS = 300;
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
    this.changed = new Map(); // id → the change, while it is newer than what was loaded
    this.byId = new Map();
    this.tookMs = 0;
    this.stream = new Stream("entity=worker", (change) => this.hear(change), () => this.beginAnew());
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
      const fleet = await ask("/page/map.json");
      if (fleet) this.take(JSON.parse(fleet));
    } finally {
      this.loading = false;
      this.tookMs = performance.now() - begun;
    }
    // From where the loaded map stands: nothing that happens in between is missed.
    if (this.revision !== undefined) this.stream.open(`${this.epoch}-${this.revision}`);
  }

  take({ groups, more_groups, healths, statuses, reasons, state, revision, epoch }) {
    const names = (letters, of) => Array.from(letters, (letter) => of[letter.charCodeAt(0) - 97] ?? "unknown");
    this.state = state;
    this.moreGroups = more_groups;
    if (epoch !== this.epoch) this.changed.clear(); // their revisions are not to be compared with this one
    this.epoch = epoch;
    this.revision = revision;
    this.groups = [];
    this.ids = [];
    this.health = [];
    this.status = [];
    this.reason = [];
    for (const [name, ids, health, status, reason] of groups) {
      const listed = ids.split(" ");
      this.groups.push({ name, first: this.ids.length, count: listed.length });
      this.ids = this.ids.concat(listed);
      this.health = this.health.concat(names(health, healths));
      this.status = this.status.concat(names(status, statuses));
      this.reason = this.reason.concat(names(reason, reasons));
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
    if (change.revision <= this.revision) return; // what was loaded knows it already, and maybe more
    this.changed.set(id, change);
    if (this.apply(id, change)) this.dispatchEvent(new Event("change"));
    else this.loadSoon();
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
