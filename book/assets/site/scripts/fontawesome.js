// In place of the theme's file of this name (1.5 MB), which turns every icon into an SVG: the theme's style sheet shows the
// same icons from its font. The original also replaces the icons of a Play widget, which then throws and stops its slider.
