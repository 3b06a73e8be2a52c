// Where each cell of the map is. No drawing, no state of workers.

const HEADING = 26;
const AFTER_GROUP = 10;
const SMALLEST = 13;
const LARGEST = 52;

export class Grid {
  // `groups` are {name, cells}. All fit into `height` where the cells need not be smaller than
  // SMALLEST for that.
  constructor(groups, width, height) {
    this.groups = groups;
    this.width = width;
    this.pitch = LARGEST;
    this.lay();
    while (this.height > height && this.pitch > SMALLEST) {
      this.pitch -= 1;
      this.lay();
    }
  }

  lay() {
    this.gap = this.pitch < 18 ? 2 : 3;
    this.columns = Math.max(1, Math.floor((this.width + this.gap) / this.pitch));
    let top = 0;
    let first = 0;
    this.bands = this.groups.map(({ name, cells }) => {
      const rows = Math.ceil(cells.length / this.columns);
      const band = { name, cells, first, top, cellsTop: top + HEADING, rows };
      top = band.cellsTop + rows * this.pitch + AFTER_GROUP;
      band.bottom = top;
      first += cells.length;
      return band;
    });
    this.count = first;
    this.height = top;
  }

  get size() {
    return this.pitch - this.gap;
  }

  // Bands any part of which is between two heights.
  *between(top, bottom) {
    for (const band of this.bands) {
      if (band.top >= bottom) return;
      if (band.bottom > top) yield band;
    }
  }

  // The corner of the cell at a place, counted through all groups.
  corner(place) {
    const band = this.bandOf(place);
    const within = place - band.first;
    return {
      x: (within % this.columns) * this.pitch,
      y: band.cellsTop + Math.floor(within / this.columns) * this.pitch,
    };
  }

  bandOf(place) {
    return this.bands.findLast((band) => band.first <= place && band.cells.length);
  }

  // The place whose cell is there, or -1.
  at(x, y) {
    const column = Math.floor(x / this.pitch);
    const band = this.bands.find((one) => y >= one.cellsTop && y < one.bottom);
    if (!band || column < 0 || column >= this.columns) return -1;
    const within = Math.floor((y - band.cellsTop) / this.pitch) * this.columns + column;
    return within < band.cells.length ? band.first + within : -1;
  }
}
