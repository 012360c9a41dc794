"""Screens made here: HTML templates drawn by headless Chromium, element boxes from the DOM, tasks with known answers."""
