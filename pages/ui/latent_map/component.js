// What Streamlit calls: again, on the same DOM, whenever the payload changes.

export default function (component) {
  const { data, parentElement, setTriggerValue } = component;
  const root = parentElement.querySelector(".latent-map");
  if (!root.map) root.map = new LatentMap(root);
  root.map.tell = setTriggerValue; // (name, value): to the server
  root.map.load(unpack(data));
  return () => root.map?.destroy();
}
