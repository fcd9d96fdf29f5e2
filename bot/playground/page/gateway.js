// The live feed: Discord's gateway with a person's token. Comes back by itself, with a fresh session when needed.

export class Gateway {
  constructor(token, { onevent, onstate }) {
    this.token = token;
    this.onevent = onevent;
    this.onstate = onstate;
    this.delay = 250;
    this.closed = false;
    this.connect();
  }

  connect() {
    const socket = new WebSocket(`ws://${location.host}/gateway/?v=10&encoding=json`);
    this.socket = socket;
    socket.onmessage = ({ data }) => this.take(JSON.parse(data));
    socket.onclose = ({ code }) => {
      clearInterval(this.heart);
      if (this.closed || socket !== this.socket) return;
      this.onstate(code === 4004 ? "expired" : "lost");
      if (code === 4004) return;
      this.timer = setTimeout(() => this.connect(), this.delay);
      this.delay = Math.min(this.delay * 2, 5000);
    };
  }

  take({ op, d, t, s }) {
    if (op === 10) {
      this.heart = setInterval(() => this.send(1, this.sequence ?? null), d.heartbeat_interval);
      if (this.session) this.send(6, { token: this.token, session_id: this.session, seq: this.sequence });
      else this.identify();
    } else if (op === 9) {
      this.session = null;
      this.identify();
    } else if (op === 0) {
      this.sequence = s;
      if (t === "READY") this.session = d.session_id;
      if (t === "READY" || t === "RESUMED") {
        this.delay = 250;
        this.onstate("live");
      }
      this.onevent(t, d);
    }
  }

  identify() {
    this.send(2, { token: this.token, properties: { os: navigator.platform, browser: "playground", device: "" } });
  }

  send(op, d) {
    if (this.socket.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify({ op, d }));
  }

  close() {
    this.closed = true;
    clearTimeout(this.timer);
    clearInterval(this.heart);
    this.socket.close(1000);
  }
}
