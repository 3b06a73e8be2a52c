// What changes, as it happens and while the page is seen: a browser has six connections to a host
// in all, and a stream takes one for as long as it is open.

export class Stream {
  // `restored` is called when a restored backup has replaced what was told.
  constructor(filter, tell, restored) {
    this.filter = filter;
    this.tell = tell;
    this.restored = restored;
    document.addEventListener("visibilitychange", () => document.hidden && this.source?.close());
  }

  // From after this position (`<epoch>-<revision>`) on, unless it is open. Once open it comes
  // again by itself; not when it was refused.
  open(position) {
    const isOpen = this.source && this.source.readyState !== EventSource.CLOSED;
    if (isOpen || document.hidden) return;
    this.source = new EventSource(`/status/events?${this.filter}&from=${position}`);
    this.source.addEventListener("transition", ({ data }) => this.tell(data));
    this.source.addEventListener("restored", () => this.restored());
  }
}
