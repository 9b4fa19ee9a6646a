// SPDX-License-Identifier: Apache-2.0

/** What the measured times come to, and which goals they meet. */

import { median, quantile } from '../harness/figure.ts';
import { timeText } from './plot.ts';
import { type Crash, crashesOf, type Experiment, experiments, type Mode, type Results } from './results.ts';

export interface Summary {
  readonly median: number;
  readonly mean: number;
  readonly max: number;
}

export const mean = (values: readonly number[]): number =>
  values.reduce((sum, value) => sum + value, 0) / values.length;

/** Throws where there is nothing to take it of. */
export const summary = (values: readonly number[]): Summary => ({
  median: median(values),
  mean: mean(values),
  max: quantile(values, 1),
});

/** Of all the time that the server was away, the part that went by before anybody knew. */
export const detectionShare = (crashes: readonly Crash[]): number =>
  mean(crashes.map(({ detectedMs }) => detectedMs)) / mean(crashes.map(({ answeringMs }) => answeringMs));

export interface Goal {
  readonly what: string;
  readonly goal: string;
  readonly measured: string;
  readonly met: boolean;
}

const percent = (share: number): string => `${Number((share * 100).toPrecision(2))} %`;

/** Those of which there is something measured. */
export function goals(results: Pick<Results, 'crashes'>): readonly Goal[] {
  return experiments.flatMap((experiment) => {
    const of = (mode: Mode) => crashesOf(results, mode, experiment);
    const ours = of('VESPER');
    return ours.length === 0 ? [] : [...own(experiment, ours), ...against(experiment, ours, of('poll 10 s'))];
  });
}

function own(experiment: Experiment, crashes: readonly Crash[]): readonly Goal[] {
  const detection = quantile(
    crashes.map(({ detectedMs }) => detectedMs),
    0.99,
  );
  const share = detectionShare(crashes);
  return [
    {
      what: `${experiment}: detection, p99`,
      goal: '< 10 ms',
      measured: timeText(detection),
      met: detection < 10,
    },
    {
      what: `${experiment}: detection's share of the whole`,
      goal: '< 5 %',
      measured: percent(share),
      met: share < 0.05,
    },
  ];
}

function against(experiment: Experiment, ours: readonly Crash[], polled: readonly Crash[]): readonly Goal[] {
  const recovering = median(ours.map(({ recoveringMs }) => recoveringMs));
  const begins: Goal = {
    what: `${experiment}: recovery begins, median`,
    goal: '≤ 150 ms',
    measured: timeText(recovering),
    met: recovering <= 150,
  };
  if (polled.length === 0) return [begins];
  const polledMean = mean(polled.map(({ recoveringMs }) => recoveringMs));
  const sooner =
    mean(polled.map(({ detectedMs }) => detectedMs)) / mean(ours.map(({ detectedMs }) => detectedMs));
  return [
    { ...begins, measured: `${begins.measured}; polling every 10 s: ${timeText(polledMean)} in the mean` },
    {
      what: `${experiment}: mean detection, sooner than by polling every 10 s`,
      goal: '≥ 100 ×',
      measured: `${Number(sooner.toPrecision(3))} ×`,
      met: sooner >= 100,
    },
  ];
}
