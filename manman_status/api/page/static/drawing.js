// The part of a grid that is to be seen, on a canvas of its size. Cells of one health in a row are
// one rectangle, and what is between them is drawn over it: some hundred rectangles a frame,
// however many workers there are.

const NAMED_FROM = 36;
const HEALTHS = ["healthy", "late", "unhealthy", "terminated", "unknown"];

export class Drawing {
  constructor(canvas) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d", { alpha: false });
    this.takeColours();
  }

  takeColours() {
    const style = getComputedStyle(this.canvas);
    const colour = (name) => style.getPropertyValue(name).trim();
    this.colours = Object.fromEntries(HEALTHS.map((health) => [health, colour(`--${health}`)]));
    this.page = colour("--surface");
    this.text = colour("--text");
    this.dim = colour("--dim");
    this.onCell = colour("--on-cell");
    this.focus = colour("--focus");
    this.font = style.fontFamily;
    this.fills = { ...this.colours, unknown: this.hatch(this.colours.unknown) };
  }

  hatch(colour) {
    const tile = new OffscreenCanvas(6, 6);
    const context = tile.getContext("2d");
    context.fillStyle = colour;
    context.fillRect(0, 0, 6, 6);
    context.strokeStyle = this.page;
    context.lineWidth = 1.4;
    for (const x of [-6, 0, 6]) {
      context.moveTo(x, 6);
      context.lineTo(x + 6, 0);
    }
    context.stroke();
    return this.context.createPattern(tile, "repeat");
  }

  resize(width, height) {
    this.ratio = devicePixelRatio;
    this.width = width;
    this.height = height;
    this.canvas.width = Math.round(width * this.ratio);
    this.canvas.height = Math.round(height * this.ratio);
  }

  draw(grid, fleet, top, chosen) {
    const { context } = this;
    context.setTransform(this.ratio, 0, 0, this.ratio, 0, 0);
    context.fillStyle = this.page;
    context.fillRect(0, 0, this.width, this.height);
    context.translate(0, -top);
    for (const band of grid.between(top, top + this.height)) {
      this.heading(band, fleet);
      const from = Math.max(0, Math.floor((top - band.cellsTop) / grid.pitch));
      const to = Math.min(band.rows, Math.ceil((top + this.height - band.cellsTop) / grid.pitch));
      if (from < to) this.rows(grid, band, fleet, from, to);
    }
    if (chosen >= 0) this.ring(grid, chosen);
  }

  heading({ name, cells, top }, fleet) {
    const { context } = this;
    context.textBaseline = "alphabetic";
    context.font = `600 13px ${this.font}`;
    context.fillStyle = this.text;
    const shown = name || "without a group";
    context.fillText(shown, 0, top + 18);
    const after = context.measureText(shown).width + 8;
    const counts = new Map();
    for (const index of cells) {
      const health = fleet.health[index];
      counts.set(health, (counts.get(health) ?? 0) + 1);
    }
    counts.delete("healthy");
    const ill = [...counts]
      .sort()
      .map(([health, count]) => `, ${count.toLocaleString("en")} ${health}`);
    context.font = `12px ${this.font}`;
    context.fillStyle = this.dim;
    context.fillText(cells.length.toLocaleString("en") + ill.join(""), after, top + 18);
  }

  rows(grid, { cells, cellsTop }, fleet, from, to) {
    const { context } = this;
    const { columns, pitch, size, gap } = grid;
    const marks = [];
    for (let row = from; row < to; row++) {
      const y = cellsTop + row * pitch;
      const first = row * columns;
      const end = Math.min(first + columns, cells.length);
      for (let cell = first; cell < end; ) {
        const health = fleet.health[cells[cell]];
        let next = cell + 1;
        while (next < end && fleet.health[cells[next]] === health) next++;
        context.fillStyle = this.fills[health];
        context.fillRect((cell - first) * pitch, y, (next - cell) * pitch - gap, size);
        if (health !== "healthy" && health !== "unknown")
          for (let ill = cell; ill < next; ill++) marks.push([health, (ill - first) * pitch, y]);
        cell = next;
      }
    }
    context.fillStyle = this.page;
    const top = cellsTop + from * pitch;
    for (let column = 1; column <= columns; column++)
      context.fillRect(column * pitch - gap, top, gap, (to - from) * pitch);
    const named = pitch >= NAMED_FROM;
    this.marks(marks, size, named);
    if (named) this.names(grid, cells, cellsTop, fleet, from, to);
  }

  // As in marks.html: a cross, a bar below, a bar in the middle. Above the name where the cell has
  // one.
  marks(marks, size, named) {
    const { context } = this;
    const reach = size * (named ? 0.14 : 0.22);
    context.strokeStyle = this.onCell;
    context.lineWidth = Math.max(1.5, size / (named ? 18 : 9));
    context.beginPath();
    for (const [health, left, top] of marks) {
      const x = left + size / 2;
      const y = top + size * (named ? 0.36 : 0.5);
      if (health === "unhealthy") {
        context.moveTo(x - reach, y - reach);
        context.lineTo(x + reach, y + reach);
        context.moveTo(x + reach, y - reach);
        context.lineTo(x - reach, y + reach);
      } else {
        const down = health === "late" ? reach : 0;
        context.moveTo(x - reach, y + down);
        context.lineTo(x + reach, y + down);
      }
    }
    context.stroke();
  }

  // Not on a hatched cell, where it could not be read.
  names({ columns, pitch, size }, cells, cellsTop, fleet, from, to) {
    const { context } = this;
    context.font = `600 11px ${this.font}`;
    context.textAlign = "center";
    context.fillStyle = this.onCell;
    for (let cell = from * columns; cell < Math.min(to * columns, cells.length); cell++) {
      const health = fleet.health[cells[cell]];
      if (health === "unknown") continue;
      const x = (cell % columns) * pitch + size / 2;
      const middle = size * (health === "healthy" ? 0.5 : 0.76);
      const y = cellsTop + Math.floor(cell / columns) * pitch + middle;
      context.fillText(fleet.ids[cells[cell]], x, y + 4, size - 4);
    }
    context.textAlign = "start";
  }

  ring(grid, place) {
    const { context } = this;
    const { x, y } = grid.corner(place);
    context.strokeStyle = this.focus;
    context.lineWidth = 2;
    context.strokeRect(x - 1, y - 1, grid.size + 2, grid.size + 2);
  }
}
