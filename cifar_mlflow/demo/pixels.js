// From a picture to the pixels that the network takes, as `predict` makes them with Pillow: the largest
// square around the centre, on white, reduced by whole factors and then by a Lanczos filter. Arithmetic
// and rounding are Pillow's, so equal pictures give equal pixels. A canvas's own scaling would differ
// from browser to browser.

const LARGE = 256; // a larger square is first reduced by a whole factor, to a side of 256 to 511 pixels
const GAP = 3; // how much larger than its result a square still is when the Lanczos filter begins
const LOBES = 3; // of the Lanczos filter
const BITS = 22; // of a weight after the point

/**
 * The middle square of an ImageBitmap, a large one reduced, as RGBA bytes: {data: Uint8Array, side}.
 *
 * Pillow decodes a large JPEG at an eighth, a quarter or half of its size, and then looks for the middle.
 */
function middleSquare(bitmap, isJpeg) {
  const shorter = Math.min(bitmap.width, bitmap.height);
  const decoded = (isJpeg && [8, 4, 2].find((each) => shorter >= each * LARGE)) || 1;
  const length = Math.ceil(shorter / decoded);
  const [left, top] = [bitmap.width, bitmap.height].map(
    (extent) => decoded * Math.floor((Math.ceil(extent / decoded) - length) / 2),
  );
  const width = Math.min(length * decoded, bitmap.width - left);
  const height = Math.min(length * decoded, bitmap.height - top);
  const factor = decoded * Math.max(1, Math.floor(length / LARGE));
  const side = Math.ceil(width / factor);
  const data = new Uint8Array(4 * side * side);
  // In strips, because phones limit the size of a canvas to less than a photograph of theirs.
  const rows = 32 * factor;
  const pen = new OffscreenCanvas(width, rows).getContext("2d", { willReadFrequently: true });
  for (let row = 0; row < height; row += rows) {
    pen.fillStyle = "white";
    pen.fillRect(0, 0, width, rows);
    pen.drawImage(bitmap, -left, -top - row);
    const strip = pen.getImageData(0, 0, width, Math.min(rows, height - row));
    data.set(reduce(strip.data, width, strip.height, factor), 4 * side * (row / factor));
  }
  return { data, side };
}

/** RGBA bytes reduced by a whole factor: each block becomes its mean. */
function reduce(source, width, height, factor) {
  const columns = Math.ceil(width / factor);
  const rows = Math.ceil(height / factor);
  const result = new Uint8Array(4 * columns * rows);
  for (let row = 0, at = 0; row < rows; row++) {
    const bottom = Math.min((row + 1) * factor, height);
    for (let column = 0; column < columns; column++) {
      const right = Math.min((column + 1) * factor, width);
      const count = (bottom - row * factor) * (right - column * factor);
      const share = Math.floor(2 ** 24 / count);
      for (let channel = 0; channel < 4; channel++) {
        let sum = count >> 1;
        for (let y = row * factor; y < bottom; y++) {
          for (let x = column * factor; x < right; x++) sum += source[4 * (y * width + x) + channel];
        }
        result[at++] = (sum * share) / 2 ** 24;
      }
    }
  }
  return result;
}

/** A square of RGBA bytes, resampled to `size` x `size` pixels: Uint8Array. */
function resample({ data, side }, size) {
  if (side === size) return data;
  const factor = Math.max(1, Math.floor(side / size / GAP));
  const reduced = reduce(data, side, side, factor);
  const length = Math.ceil(side / factor);
  const filters = lanczos(Math.fround(side / factor), length, size);
  const across = transposed(filtered(reduced, length, filters), length, size);
  return transposed(filtered(across, size, filters), size, size);
}

/** For each output pixel the first input pixel and the weights of it and those that follow. */
function lanczos(extent, length, size) {
  const scale = extent / size;
  const stretch = Math.max(1, scale);
  return Array.from({ length: size }, (_, index) => {
    const centre = (index + 0.5) * scale;
    const first = Math.max(0, Math.trunc(centre - LOBES * stretch + 0.5));
    const end = Math.min(length, Math.trunc(centre + LOBES * stretch + 0.5));
    const weights = Array.from({ length: end - first }, (_, offset) =>
      windowedSinc((first + offset - centre + 0.5) / stretch),
    );
    const sum = weights.reduce((total, weight) => total + weight, 0);
    return { first, weights: weights.map((weight) => rounded((weight / sum) * 2 ** BITS)) };
  });
}

function windowedSinc(x) {
  const sinc = (x) => (x === 0 ? 1 : Math.sin(Math.PI * x) / (Math.PI * x));
  return Math.abs(x) < LOBES ? sinc(x) * sinc(x / LOBES) : 0;
}

function rounded(x) {
  return Math.trunc(x + 0.5 * Math.sign(x));
}

/** Each row of an RGBA image filtered; `rows` of them. */
function filtered(source, rows, filters) {
  const width = source.length / 4 / rows;
  const result = new Uint8ClampedArray(4 * rows * filters.length);
  for (let row = 0, at = 0; row < rows; row++) {
    for (const { first, weights } of filters) {
      for (let channel = 0; channel < 4; channel++) {
        let from = 4 * (row * width + first) + channel;
        let sum = 2 ** (BITS - 1);
        for (const weight of weights) {
          sum += weight * source[from];
          from += 4;
        }
        result[at++] = Math.floor(sum / 2 ** BITS);
      }
    }
  }
  return result;
}

/** RGBA bytes with rows and columns exchanged. */
function transposed(source, rows, columns) {
  const from = new Uint32Array(source.buffer);
  const result = new Uint32Array(rows * columns);
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++) {
      result[column * rows + row] = from[row * columns + column];
    }
  }
  return new Uint8Array(result.buffer);
}
