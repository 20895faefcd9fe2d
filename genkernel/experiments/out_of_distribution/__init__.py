"""Do tangent scores see unseen, printed and foreign images."""
