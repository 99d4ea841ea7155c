/* Draws a protein as a cartoon with WebGL 2. No dependencies: a report must open without a network.
 *
 * A model is { residues: [{ chain, name, number, plddt, atoms: { CA: [x, y, z], ... } }] }, in Å. */
"use strict";

const Viewer = (() => {
  const RING = 12; // points of a cross-section
  const STEPS = 6; // cross-sections a residue
  const COIL = [0.28, 0.28], HELIX = [1.25, 0.26], STRAND = [1.15, 0.24], ARROW = 1.9; // half width, half height, Å
  const BREAK = 4.6; // Å between Cα atoms beyond which the chain is drawn as broken

  const add = (a, b) => [a[0] + b[0], a[1] + b[1], a[2] + b[2]];
  const sub = (a, b) => [a[0] - b[0], a[1] - b[1], a[2] - b[2]];
  const scale = (a, s) => [a[0] * s, a[1] * s, a[2] * s];
  const dot = (a, b) => a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
  const cross = (a, b) => [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]];
  const length = (a) => Math.hypot(a[0], a[1], a[2]);
  const unit = (a) => scale(a, 1 / (length(a) || 1));
  const mix = (a, b, t) => add(scale(a, 1 - t), scale(b, t));

  const VERTEX = `#version 300 es
    uniform mat4 view, projection; uniform vec3 offset; uniform float size;
    in vec3 position, normal, colour; out vec3 n, c; out float depth;
    void main() {
      vec4 p = view * vec4(position * size + offset, 1.0);
      gl_Position = projection * p; n = mat3(view) * normal; c = colour; depth = -p.z;
    }`;
  const FRAGMENT = `#version 300 es
    precision highp float;
    uniform float near, far; uniform vec4 tint; in vec3 n, c; in float depth; out vec4 result;
    void main() {
      vec3 m = normalize(n); if (m.z < 0.0) m = -m;
      vec3 base = mix(c, tint.rgb, tint.a);
      float diffuse = max(dot(m, normalize(vec3(0.3, 0.5, 1.0))), 0.0);
      float shine = pow(max(dot(m, normalize(vec3(0.2, 0.35, 1.0))), 0.0), 40.0) * 0.18;
      vec3 lit = base * (0.38 + 0.68 * diffuse) + shine;
      float fog = clamp((depth - near) / (far - near), 0.0, 1.0);
      result = vec4(mix(lit, vec3(1.0), fog * fog * 0.72), 1.0);
    }`;

  /* Helix, strand or coil by distances between Cα atoms (Labesse et al. 1997, P-SEA). */
  function secondaryStructure(alphas) {
    const n = alphas.length, kinds = new Array(n).fill("coil");
    const near = (i, k, target, slack) => i + k < n && Math.abs(length(sub(alphas[i + k], alphas[i])) - target) <= slack;
    const runs = (kind, least, fits) => {
      let begin = 0;
      for (let i = 0; i <= n; i++) {
        if (i < n && fits(i)) continue;
        if (i - begin >= least) for (let j = begin; j < Math.min(i + 3, n); j++) if (kinds[j] === "coil") kinds[j] = kind;
        begin = i + 1;
      }
    };
    runs("helix", 2, (i) => near(i, 2, 5.5, 0.6) && near(i, 3, 5.3, 0.7) && near(i, 4, 6.3, 0.9));
    runs("strand", 2, (i) => near(i, 2, 6.7, 0.6) && near(i, 3, 9.9, 1.0));
    return kinds;
  }

  /* Runs of residues whose Cα atoms follow each other. */
  function segments(residues) {
    const found = [];
    let last = null;
    residues.forEach((residue, index) => {
      const alpha = residue.atoms.CA;
      if (!alpha) { last = null; return; }
      const joined = last && residue.chain === last.chain && length(sub(alpha, last.atoms.CA)) < BREAK;
      if (!joined) found.push([]);
      found[found.length - 1].push(index);
      last = residue;
    });
    return found;
  }

  /* Points, side vectors and kinds of a segment, smoothed where strands pleat. */
  function guide(residues, indices) {
    const alphas = indices.map((i) => residues[i].atoms.CA);
    const kinds = secondaryStructure(alphas);
    let previous = null;
    const sides = indices.map((index, k) => {
      const before = alphas[Math.max(k - 1, 0)], after = alphas[Math.min(k + 1, alphas.length - 1)];
      const tangent = unit(sub(after, before)), { C, O } = residues[index].atoms;
      let side = C && O ? sub(O, C) : cross(tangent, Math.abs(tangent[0]) < 0.9 ? [1, 0, 0] : [0, 1, 0]);
      side = unit(sub(side, scale(tangent, dot(side, tangent))));
      if (previous && dot(side, previous) < 0) side = scale(side, -1);
      return (previous = side);
    });
    const points = alphas.map((point, k) => {
      if (kinds[k] !== "strand" || k === 0 || k === alphas.length - 1) return point;
      return mix(point, mix(alphas[k - 1], alphas[k + 1], 0.5), 0.5);
    });
    return { points, sides, kinds };
  }

  function spline(p, k, t) {
    const at = (i) => p[Math.min(Math.max(i, 0), p.length - 1)];
    const [a, b, c, d] = [at(k - 1), at(k), at(k + 1), at(k + 2)];
    return [0, 1, 2].map((x) => 0.5 * (2 * b[x] + (c[x] - a[x]) * t + (2 * a[x] - 5 * b[x] + 4 * c[x] - d[x]) * t * t
      + (3 * b[x] - a[x] - 3 * c[x] + d[x]) * t * t * t));
  }

  /* Half width and height of the cross-section between residues k and k + 1. */
  function profile(kinds, k, t) {
    const shape = (kind) => (kind === "helix" ? HELIX : kind === "strand" ? STRAND : COIL);
    const next = kinds[Math.min(k + 1, kinds.length - 1)];
    if (kinds[k] === "strand" && next !== "strand") return [ARROW * (1 - t) + COIL[0] * t, STRAND[1]];
    const from = shape(kinds[k]), to = shape(next), s = t * t * (3 - 2 * t);
    return [from[0] + (to[0] - from[0]) * s, from[1] + (to[1] - from[1]) * s];
  }

  function cartoon(residues, colours) {
    const position = [], normal = [], colour = [], index = [];
    for (const indices of segments(residues)) {
      if (indices.length < 2) continue;
      const { points, sides, kinds } = guide(residues, indices);
      const total = (points.length - 1) * STEPS, first = position.length / 3;
      let side = sides[0];
      for (let s = 0; s <= total; s++) {
        const k = Math.min(Math.floor(s / STEPS), points.length - 2), t = s / STEPS - k;
        const centre = spline(points, k, t);
        const tangent = unit(sub(spline(points, k, Math.min(t + 0.02, 1)), spline(points, k, Math.max(t - 0.02, 0))));
        const wanted = mix(sides[k], sides[k + 1], t);
        const across = sub(wanted, scale(tangent, dot(wanted, tangent)));
        if (length(across) > 1e-3) side = unit(across);
        const up = unit(cross(tangent, side)), [width, height] = profile(kinds, k, t);
        const tone = colours[indices[t < 0.5 ? k : k + 1]];
        for (let r = 0; r < RING; r++) {
          const angle = (2 * Math.PI * r) / RING, x = Math.cos(angle), y = Math.sin(angle);
          position.push(...add(centre, add(scale(side, x * width), scale(up, y * height))));
          normal.push(...unit(add(scale(side, x / width), scale(up, y / height))));
          colour.push(...tone);
        }
      }
      for (let s = 0; s < total; s++) for (let r = 0; r < RING; r++) {
        const a = first + s * RING + r, b = first + s * RING + ((r + 1) % RING);
        index.push(a, a + RING, b, b, a + RING, b + RING);
      }
      for (const [start, turn] of [[first, 1], [first + total * RING, 0]]) for (let r = 1; r < RING - 1; r++)
        index.push(start, start + r + turn, start + r + 1 - turn);
    }
    return { position, normal, colour, index };
  }

  /* Cylinders along bonds: heavy atoms of one residue closer than 1.95 Å. */
  function sticks(residues, chosen) {
    const mesh = { position: [], normal: [], colour: [], index: [] };
    const tones = { C: [0.35, 0.35, 0.35], N: [0.2, 0.35, 0.9], O: [0.9, 0.2, 0.2], S: [0.85, 0.7, 0.1] };
    for (const i of chosen) {
      const atoms = Object.entries(residues[i].atoms);
      for (let a = 0; a < atoms.length; a++) for (let b = a + 1; b < atoms.length; b++) {
        if (length(sub(atoms[a][1], atoms[b][1])) > 1.95) continue;
        const middle = mix(atoms[a][1], atoms[b][1], 0.5);
        cylinder(mesh, atoms[a][1], middle, 0.16, tones[atoms[a][0][0]]);
        cylinder(mesh, atoms[b][1], middle, 0.16, tones[atoms[b][0][0]]);
      }
    }
    return mesh;
  }

  function cylinder(mesh, from, to, radius, tone) {
    const axis = unit(sub(to, from)), side = unit(cross(axis, Math.abs(axis[0]) < 0.9 ? [1, 0, 0] : [0, 1, 0]));
    const up = cross(axis, side), first = mesh.position.length / 3;
    for (const end of [from, to]) for (let r = 0; r < 8; r++) {
      const out = add(scale(side, Math.cos((r * Math.PI) / 4)), scale(up, Math.sin((r * Math.PI) / 4)));
      mesh.position.push(...add(end, scale(out, radius)));
      mesh.normal.push(...out);
      mesh.colour.push(...tone);
    }
    for (let r = 0; r < 8; r++) {
      const a = first + r, b = first + ((r + 1) % 8);
      mesh.index.push(a, a + 8, b, b, a + 8, b + 8);
    }
  }

  function sphere() {
    const position = [], index = [], rows = 12, columns = 18;
    for (let i = 0; i <= rows; i++) for (let j = 0; j <= columns; j++) {
      const theta = (Math.PI * i) / rows, phi = (2 * Math.PI * j) / columns;
      position.push(Math.sin(theta) * Math.cos(phi), Math.cos(theta), Math.sin(theta) * Math.sin(phi));
    }
    for (let i = 0; i < rows; i++) for (let j = 0; j < columns; j++) {
      const a = i * (columns + 1) + j, b = a + columns + 1;
      index.push(a, a + 1, b, b, a + 1, b + 1);
    }
    return { position, normal: position, colour: position.map(() => 0.5), index };
  }

  function compile(gl) {
    const program = gl.createProgram();
    for (const [kind, source] of [[gl.VERTEX_SHADER, VERTEX], [gl.FRAGMENT_SHADER, FRAGMENT]]) {
      const shader = gl.createShader(kind);
      gl.shaderSource(shader, source);
      gl.compileShader(shader);
      if (!gl.getShaderParameter(shader, gl.COMPILE_STATUS)) throw new Error(gl.getShaderInfoLog(shader));
      gl.attachShader(program, shader);
    }
    gl.linkProgram(program);
    return program;
  }

  /* onHover(index | null) and onClick(index | null) are told of residues under the pointer. */
  return function create(canvas, { onHover = () => {}, onClick = () => {} } = {}) {
    const gl = canvas.getContext("webgl2", { antialias: true, preserveDrawingBuffer: true });
    if (!gl) return null;
    const program = compile(gl);
    const uniform = (name) => gl.getUniformLocation(program, name);
    const meshes = {}, ball = upload(sphere());
    let residues = [], centre = [0, 0, 0], radius = 20, marks = [], pending = false;
    let rotation = [1, 0, 0, 0, 1, 0, 0, 0, 1], distance = 60, pan = [0, 0];

    function upload(mesh) {
      const vao = gl.createVertexArray();
      gl.bindVertexArray(vao);
      for (const name of ["position", "normal", "colour"]) {
        const place = gl.getAttribLocation(program, name);
        gl.bindBuffer(gl.ARRAY_BUFFER, gl.createBuffer());
        gl.bufferData(gl.ARRAY_BUFFER, new Float32Array(mesh[name]), gl.STATIC_DRAW);
        gl.enableVertexAttribArray(place);
        gl.vertexAttribPointer(place, 3, gl.FLOAT, false, 0, 0);
      }
      gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, gl.createBuffer());
      gl.bufferData(gl.ELEMENT_ARRAY_BUFFER, new Uint32Array(mesh.index), gl.STATIC_DRAW);
      gl.bindVertexArray(null);
      return { vao, count: mesh.index.length };
    }

    /* Å in front of the eye: [x, y, -depth]. */
    function seen(point) {
      const p = sub(point, centre), r = rotation;
      return [r[0] * p[0] + r[1] * p[1] + r[2] * p[2] + pan[0], r[3] * p[0] + r[4] * p[1] + r[5] * p[2] + pan[1],
        r[6] * p[0] + r[7] * p[1] + r[8] * p[2] - distance];
    }

    const focal = () => 1 / Math.tan(0.35);

    function draw() {
      pending = false;
      const ratio = window.devicePixelRatio || 1;
      const width = Math.round(canvas.clientWidth * ratio), height = Math.round(canvas.clientHeight * ratio);
      if (canvas.width !== width || canvas.height !== height) { canvas.width = width; canvas.height = height; }
      gl.viewport(0, 0, width, height);
      gl.clearColor(1, 1, 1, 1);
      gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
      gl.enable(gl.DEPTH_TEST);
      gl.useProgram(program);
      const r = rotation, shift = seen([0, 0, 0]), f = focal(), near = Math.max(distance - radius * 1.6, 0.5);
      const far = distance + radius * 1.6;
      gl.uniformMatrix4fv(uniform("view"), false, [r[0], r[3], r[6], 0, r[1], r[4], r[7], 0, r[2], r[5], r[8], 0, ...shift, 1]);
      gl.uniformMatrix4fv(uniform("projection"), false, [(f * height) / width, 0, 0, 0, 0, f, 0, 0, 0, 0,
        (far + near) / (near - far), -1, 0, 0, (2 * far * near) / (near - far), 0]);
      gl.uniform1f(uniform("near"), distance - radius * 0.9);
      gl.uniform1f(uniform("far"), distance + radius * 1.5);
      const show = (mesh, offset, size, tint) => {
        gl.uniform3fv(uniform("offset"), offset);
        gl.uniform1f(uniform("size"), size);
        gl.uniform4fv(uniform("tint"), tint);
        gl.bindVertexArray(mesh.vao);
        gl.drawElements(gl.TRIANGLES, mesh.count, gl.UNSIGNED_INT, 0);
      };
      for (const mesh of Object.values(meshes)) if (mesh) show(mesh, [0, 0, 0], 1, [0, 0, 0, 0]);
      for (const { index, tone } of marks) if (residues[index]?.atoms.CA) show(ball, residues[index].atoms.CA, 1.5, [...tone, 1]);
    }
    const redraw = () => { if (!pending) { pending = true; requestAnimationFrame(draw); } };

    function turn(dx, dy) {
      const [a, b] = [dx * 0.008, dy * 0.008], r = rotation;
      const y = [Math.cos(a), 0, Math.sin(a), 0, 1, 0, -Math.sin(a), 0, Math.cos(a)];
      const x = [1, 0, 0, 0, Math.cos(b), -Math.sin(b), 0, Math.sin(b), Math.cos(b)];
      const times = (m, n) => m.map((_, i) => [0, 1, 2].reduce((s, k) => s + m[3 * Math.floor(i / 3) + k] * n[3 * k + (i % 3)], 0));
      rotation = times(x, times(y, r));
    }

    /* The residue whose Cα is drawn within 14 pixels of a point, the nearest to the eye of them. */
    function pick(x, y) {
      const height = canvas.clientHeight, f = (focal() * height) / 2;
      let best = null, depth = Infinity;
      residues.forEach((residue, index) => {
        if (!residue.atoms.CA) return;
        const p = seen(residue.atoms.CA);
        if (p[2] > -0.5) return;
        const px = canvas.clientWidth / 2 + (p[0] / -p[2]) * f, py = height / 2 - (p[1] / -p[2]) * f;
        if (Math.hypot(px - x, py - y) < 14 && -p[2] < depth) { best = index; depth = -p[2]; }
      });
      return best;
    }

    const pointers = new Map();
    let moved = 0, gap = 0;
    const where = (event) => { const box = canvas.getBoundingClientRect(); return [event.clientX - box.left, event.clientY - box.top]; };
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      pointers.set(event.pointerId, [event.clientX, event.clientY]);
      moved = gap = 0;
    });
    canvas.addEventListener("pointermove", (event) => {
      const last = pointers.get(event.pointerId);
      if (!last) { onHover(pick(...where(event))); return; }
      const dx = event.clientX - last[0], dy = event.clientY - last[1];
      pointers.set(event.pointerId, [event.clientX, event.clientY]);
      moved += Math.abs(dx) + Math.abs(dy);
      if (pointers.size === 2) {
        const [a, b] = [...pointers.values()], now = Math.hypot(a[0] - b[0], a[1] - b[1]);
        if (gap) distance *= gap / now;
        gap = now;
      } else if (event.buttons & 6 || event.shiftKey) {
        const step = (2 * distance) / (focal() * canvas.clientHeight);
        pan = [pan[0] + dx * step, pan[1] - dy * step];
      } else turn(dx, dy);
      redraw();
    });
    canvas.addEventListener("pointerup", (event) => {
      if (moved < 4) onClick(pick(...where(event)));
      pointers.delete(event.pointerId);
    });
    canvas.addEventListener("pointercancel", (event) => pointers.delete(event.pointerId));
    canvas.addEventListener("pointerleave", () => onHover(null));
    canvas.addEventListener("contextmenu", (event) => event.preventDefault());
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      distance = Math.min(Math.max(distance * Math.exp(event.deltaY * 0.001), 5), radius * 12);
      redraw();
    }, { passive: false });
    window.addEventListener("resize", redraw);

    function discard(name) { if (meshes[name]) gl.deleteVertexArray(meshes[name].vao); meshes[name] = null; }

    return {
      /* Shows other residues; the view stays if `keep` is set. */
      show(model, colours, keep = false) {
        residues = model.residues;
        const known = residues.map((residue) => residue.atoms.CA).filter(Boolean);
        centre = scale(known.reduce(add, [0, 0, 0]), 1 / Math.max(known.length, 1));
        radius = Math.max(...known.map((point) => length(sub(point, centre))), 8) + 3;
        if (!keep) { distance = radius * 2.8; pan = [0, 0]; }
        this.colour(colours);
      },
      colour(colours) { discard("cartoon"); meshes.cartoon = upload(cartoon(residues, colours)); redraw(); },
      /* marks: [{ index, tone: [r, g, b] }]; side chains of the residues listed are drawn too. */
      mark(next, chosen = []) {
        marks = next;
        discard("sticks");
        if (chosen.length) meshes.sticks = upload(sticks(residues, chosen));
        redraw();
      },
      reset() { rotation = [1, 0, 0, 0, 1, 0, 0, 0, 1]; distance = radius * 2.8; pan = [0, 0]; redraw(); },
      image() { draw(); return canvas.toDataURL("image/png"); },
    };
  };
})();
